package destination

import (
	"errors"
	"regexp/syntax"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/functions"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// mostMade bounds what an expression holds in memory, in bytes, about. It is more than may be
// sent: objects of the event may have space in them, which is not.
const mostMade = 4 * maxPayload

var errTooMuch = errors.New("the expression makes more than can be sent")

// fits reports whether a value has no more than mostMade bytes. A list may have one object of
// the event a thousand times.
func fits(v ref.Val) bool {
	left := mostMade
	return weigh(v, &left)
}

// weigh takes a value from what is left, and reports whether it was enough.
func weigh(v ref.Val, left *int) bool {
	*left--
	switch v := v.(type) {
	case types.String:
		*left -= len(v)
	case types.Bytes:
		*left -= len(v)
	case *jsonObject:
		*left -= len(v.raw)
	case traits.Mapper:
		for it := v.Iterator(); *left >= 0 && it.HasNext() == types.True; {
			key := it.Next()
			_ = weigh(key, left) && weigh(v.Get(key), left)
		}
	case traits.Lister:
		for it := v.Iterator(); *left >= 0 && it.HasNext() == types.True; {
			weigh(it.Next(), left)
		}
	}
	return *left >= 0
}

// lighter reports whether one of two values fits, by looking about as far as it takes to
// compare them.
func lighter(a, b ref.Val) bool {
	for most := 64; most <= mostMade; most *= 8 {
		x, y := most, most
		if weigh(a, &x) || weigh(b, &y) {
			return true
		}
	}
	return false
}

// boundOperators has what a call may need known before: a value that holds another twice, and
// that one another, is soon larger than all memory, and the time to compare it is, too.
func boundOperators(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	call, is := i.(interpreter.InterpretableCall)
	if !is {
		return i, nil
	}
	var do func(a, b ref.Val) ref.Val
	switch call.Function() {
	case operators.Add:
		return boundSum{call}, nil
	case operators.Equals:
		do = types.Equal
	case operators.NotEquals:
		do = func(a, b ref.Val) ref.Val { return types.Bool(types.Equal(a, b) != types.True) }
	case operators.In:
		do = func(a, b ref.Val) ref.Val {
			if in, is := b.(traits.Container); is {
				return in.Contains(a)
			}
			return types.MaybeNoSuchOverloadErr(b)
		}
	case overloads.Matches:
		if len(call.Args()) == 2 {
			return boundMatch(call)
		}
		return i, nil
	default:
		return i, nil
	}
	return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), func(args ...ref.Val) ref.Val {
		if !lighter(args[0], args[1]) {
			return types.WrapErr(errTooMuch)
		}
		return do(args[0], args[1])
	}), nil
}

// boundSum is a sum that has no more elements than an event can have.
type boundSum struct{ interpreter.InterpretableCall }

// Exec satisfies interpreter.InterpretableV2.
func (s boundSum) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	v := s.InterpretableCall.Exec(frame)
	if list, is := v.(traits.Lister); is && list.Size().(types.Int) > mostMade {
		return types.WrapErr(errTooMuch)
	}
	return v
}

// Bounds of regular expressions: the time of one is its steps times the text.
const (
	mostSteps   = 500
	mostMatched = 64 << 20 // steps times bytes, of a pattern that is not known beforehand
)

var errPattern = errors.New("the regular expression is too large")

// boundMatch bounds a match: a pattern that is known when it is planned, or the call.
func boundMatch(call interpreter.InterpretableCall) (interpreter.InterpretableV2, error) {
	if known, is := call.Args()[1].(interpreter.InterpretableConst); is {
		text, _ := known.Value().(types.String)
		pattern, err := syntax.Parse(string(text), syntax.Perl)
		if err != nil {
			return call, nil // others say so
		}
		steps, err := syntax.Compile(pattern.Simplify())
		if err == nil && len(steps.Inst) > mostSteps {
			return nil, errPattern
		}
		return call, nil
	}
	return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), func(args ...ref.Val) ref.Val {
		text, texts := args[0].(types.String)
		pattern, is := args[1].(types.String)
		switch {
		case !texts || !is:
			return types.MaybeNoSuchOverloadErr(args[0])
		case strings.Contains(string(pattern), "{"), 2*len(pattern)*len(text) > mostMatched: // braces repeat
			return types.WrapErr(errPattern)
		}
		return text.Match(pattern)
	}), nil
}

// boundedFunctions stand in place of those of env that can make much of little. What a function
// costs is counted when it is done, which is too late for one that fills the memory.
func boundedFunctions(env *cel.Env) ([]cel.EnvOption, error) {
	var out []cel.EnvOption
	for name, small := range map[string]func(args []ref.Val) bool{"replace": replaceFits, "join": joinFits, "format": formatFits} {
		of := env.Functions()[name]
		bindings, err := of.Bindings()
		if err != nil {
			return nil, err
		}
		byID := map[string]*functions.Overload{}
		for _, b := range bindings {
			byID[b.Operator] = b
		}
		for _, o := range of.OverloadDecls() {
			b := byID[o.ID()]
			call := func(args ...ref.Val) ref.Val {
				switch {
				case !small(args):
					return types.WrapErr(errTooMuch)
				case len(args) == 1:
					return b.Unary(args[0])
				case len(args) == 2 && b.Binary != nil:
					return b.Binary(args[0], args[1])
				}
				return b.Function(args...)
			}
			bounded := cel.FunctionBinding(call)
			switch len(o.ArgTypes()) {
			case 1:
				bounded = cel.UnaryBinding(func(a ref.Val) ref.Val { return call(a) })
			case 2:
				bounded = cel.BinaryBinding(func(a, b ref.Val) ref.Val { return call(a, b) })
			}
			out = append(out, cel.Function(name, cel.MemberOverload(o.ID(), o.ArgTypes(), o.ResultType(), bounded)))
		}
	}
	return out, nil
}

// replaceFits tells of a text, what is replaced in it, by what, and how often at most.
func replaceFits(args []ref.Val) bool {
	text, _ := args[0].(types.String)
	old, _ := args[1].(types.String)
	by, _ := args[2].(types.String)
	return len(text)+strings.Count(string(text), string(old))*len(by) <= mostMade
}

// joinFits tells of a list of texts, and what comes between them.
func joinFits(args []ref.Val) bool {
	left := mostMade
	if list, is := args[0].(traits.Lister); is && len(args) == 2 {
		size, _ := list.Size().(types.Int)
		between, _ := args[1].(types.String)
		left -= int(min(size, mostMade)) * len(between)
	}
	return left >= 0 && weigh(args[0], &left)
}

// formatFits tells of a text with places, and a list of what comes into them.
func formatFits(args []ref.Val) bool { return fits(args[1]) }
