package destination

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/ext"
	"google.golang.org/protobuf/types/known/structpb"
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
var variables = []string{"event", "id", "type", "subject", "source", "time", "data", "key"}

// expressions is the environment of all of them.
var expressions = sync.OnceValues(func() (*cel.Env, error) {
	options := []cel.EnvOption{ext.Strings(), cel.ParserExpressionSizeLimit(maxExpression), cel.ParserRecursionLimit(50)}
	for _, name := range variables {
		options = append(options, cel.Variable(name, cel.DynType))
	}
	return cel.NewEnv(options...)
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
	program, err := env.Program(ast, cel.CostLimit(maxExpressionCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, errors.New("it cannot be planned")
	}
	return &expression{program}, nil
}

// of returns what the expression makes of the variables. What fails says what the event
// lacks, never what it holds.
func (e *expression) of(values map[string]any) (json.RawMessage, error) {
	value, _, err := e.program.Eval(values)
	if err != nil {
		return nil, fmt.Errorf("the expression fails for the event: %.120s", err)
	}
	made, err := value.ConvertToNative(reflect.TypeFor[*structpb.Value]())
	if err != nil {
		return nil, errors.New("the expression makes something that is no JSON")
	}
	v, ok := made.(*structpb.Value)
	if !ok {
		return nil, errors.New("the expression makes something that is no JSON")
	}
	raw, err := json.Marshal(v.AsInterface())
	switch {
	case err != nil:
		return nil, errors.New("the expression makes something that is no JSON")
	case len(raw) > maxPayload:
		return nil, fmt.Errorf("the expression makes %d bytes; at most %d are sent", len(raw), maxPayload)
	}
	return raw, nil
}
