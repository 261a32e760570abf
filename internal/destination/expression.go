package destination

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/ext"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/carillon-events/carillon/event"
)

// expression makes JSON of an event: one of the Common Expression Language, which always
// ends and cannot look at anything but what it is given. Values of the event come out as
// JSON values, so nothing that an event says can break out of where it stands.
// Source: cel.dev, language definition.
type expression struct{ program cel.Program }

// Bounds of expressions. What an expression costs grows with the event; this is enough to
// copy one of 1 MiB some times.
const (
	maxExpression     = 4 << 10 // bytes
	maxExpressionCost = 100_000
	maxPayload        = 1 << 20 // bytes of what comes out
)

// variables are what an expression is given: the event as it is delivered, what every
// event has, and the key that tells this delivery from others.
var variables = [...]string{"event", "id", "type", "subject", "source", "time", "data", "key"}

// facts are an event as an expression sees it. It satisfies cel.Activation. What is not asked
// for is not decoded.
type facts struct {
	event.Event // custom input has no attributes
	raw         []byte
	custom      bool                    // the event is what it holds, not an envelope
	key         string                  // 32 hex digits, the same in every attempt
	known       [len(variables)]ref.Val // those that were asked for
	looked      int                     // bytes that were read in search of members
	err         error                   // in decoding
}

// read takes an event as it is delivered.
func (f *facts) read(raw []byte, schema event.Schema) {
	f.raw, f.custom = raw, schema == event.CustomEventSchema
	if f.Parse(raw, schema) != nil {
		f.Event, f.custom = event.Event{}, true
	}
}

// text is what every event has, or the key.
func (f *facts) text(name string) string {
	switch name {
	case "id":
		return string(f.ID)
	case "type":
		return string(f.Type)
	case "subject":
		return string(f.Subject)
	case "source":
		return string(f.Source)
	case "time":
		return string(f.Time)
	case "key":
		return f.key
	}
	return ""
}

// ResolveName satisfies cel.Activation.
func (f *facts) ResolveName(name string) (any, bool) {
	place := slices.Index(variables[:], name)
	if place < 0 {
		return nil, false
	}
	if f.known[place] == nil {
		f.known[place] = f.variable(name)
	}
	return f.known[place], true
}

func (f *facts) variable(name string) ref.Val {
	switch name {
	case "event":
		return f.jsonValue(f.raw)
	case "data":
		if !f.custom {
			return f.jsonValue(f.Data)
		}
		whole := jsonObject{of: f, raw: f.raw}
		if v, found := whole.Find(types.String(name)); found {
			return v
		}
		return types.NullValue
	}
	return types.String(f.text(name))
}

// Parent satisfies cel.Activation.
func (*facts) Parent() cel.Activation { return nil }

// expressions is the environment of all of them.
var expressions = sync.OnceValues(func() (*cel.Env, error) {
	options := []cel.EnvOption{ext.Strings(), cel.ParserExpressionSizeLimit(maxExpression), cel.ParserRecursionLimit(50)}
	for _, name := range variables {
		options = append(options, cel.Variable(name, cel.DynType))
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		return nil, err
	}
	bounded, err := boundedFunctions(env)
	if err != nil {
		return nil, err
	}
	return env.Extend(bounded...)
})

// compile reads an expression.
func compile(text string) (*expression, error) {
	env, err := expressions()
	if err != nil {
		return nil, fmt.Errorf("make the environment of expressions: %w", err)
	}
	ast, issues := env.Compile(text)
	if issues != nil && issues.Err() != nil {
		first := issues.Errors()[0]
		return nil, fmt.Errorf("%.200s (line %d, column %d)", first.Message, first.Location.Line(), first.Location.Column()+1)
	}
	program, err := env.Program(ast, cel.CostLimit(maxExpressionCost), cel.EvalOptions(cel.OptOptimize), cel.CustomDecoratorV2(boundOperators))
	if errors.Is(err, errPattern) {
		return nil, errPattern
	}
	if err != nil {
		return nil, errors.New("it cannot be planned")
	}
	return &expression{program}, nil
}

// of returns what the expression makes of an event, as encoding/json has it; objects of the
// event as they stand there. What fails is told in at most 120 characters, which may have a
// name or a value of the event in them.
func (e *expression) of(f *facts) (any, error) {
	value, _, err := e.program.Eval(f)
	switch {
	case f.err != nil:
		return nil, f.err
	case err != nil:
		return nil, fmt.Errorf("the expression fails for the event: %.120s", err)
	}
	if !fits(value) {
		return nil, errTooMuch
	}
	made, err := jsonOf(value)
	switch {
	case f.err != nil:
		return nil, f.err
	case err != nil:
		return nil, errNoJSON
	}
	return made, nil
}

var errNoJSON = errors.New("the expression makes something that is no JSON")

// exact bounds the integers that are numbers of JSON to everybody; those beyond it are texts.
// Source: protobuf.dev, ProtoJSON, as the Common Expression Language has it.
const exact = 1 << 53

// jsonOf is a value as encoding/json has it.
func jsonOf(value ref.Val) (any, error) {
	switch v := value.(type) {
	case types.Null:
		return nil, nil
	case types.Bool:
		return bool(v), nil
	case types.String:
		return string(v), nil
	case types.Int:
		if -exact < v && v < exact {
			return int64(v), nil
		}
	case types.Double:
		if f := float64(v); !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f, nil
		}
	case *jsonObject:
		return json.RawMessage(v.raw), nil
	case traits.Mapper:
		if m, is := v.Value().(map[string]any); is { // of the event
			return m, nil
		}
		m := map[string]any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			key, is := it.Next().(types.String)
			if !is {
				return protoJSON(value)
			}
			member, err := jsonOf(v.Get(key))
			if err != nil {
				return nil, err
			}
			m[string(key)] = member
		}
		return m, nil
	case traits.Lister:
		list := []any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			element, err := jsonOf(it.Next())
			if err != nil {
				return nil, err
			}
			list = append(list, element)
		}
		return list, nil
	}
	return protoJSON(value)
}

// protoJSON is a value as JSON of protobuf has it.
func protoJSON(value ref.Val) (any, error) {
	made, err := value.ConvertToNative(reflect.TypeFor[*structpb.Value]())
	if err != nil {
		return nil, err
	}
	v, is := made.(*structpb.Value)
	if !is {
		return nil, errNoJSON
	}
	return v.AsInterface(), nil
}
