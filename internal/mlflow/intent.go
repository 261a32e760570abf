package mlflow

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/carillon-events/carillon/internal/resource"
	"github.com/carillon-events/carillon/internal/telemetry"
)

// intents is the file of what the proxy passes on and has not seen the end of: requests
// that change a run or a model, from before they are sent until the ledger has what came
// of them. What is left in it at a start was under way when the process was killed, and
// is looked at first.
//
// The file is written before a request goes on and is not synced. It has to outlive the
// process, which a write does; a machine that loses power loses it, and the first round
// after each start reads everything anyway. It makes a start quick where that takes
// minutes, and knows that a change was made now, whatever the clock of the client said.
// For the same reason a file that cannot be written or read stops nobody.
// Source: spec/workspace.md section 5.6, rule 4.
//
// Its form is lines: a first one with the version, "+ N SERVER KIND NAME" for an intent
// that begins and "- N" for one that ended. What is not such a line was cut off by a
// crash.
type intents struct {
	log *slog.Logger

	mu    sync.Mutex
	path  string
	file  *os.File // nil when it cannot be written
	size  int
	least int  // size after it was written anew
	torn  bool // the last write failed: a piece of a line may stand there
	told  bool // that it cannot be written
	ended bool // closed
	last  uint64
	under map[uint64]intent // those that have not ended
}

// intent is a change of an object that a request asks for.
type intent struct {
	server resource.UID
	object Object
}

const (
	intentsHead    = "carillon mlflow intents "
	intentsVersion = 1
	mostIntents    = mostLooks // what exceeds them goes without
	intentsSmall   = 64 << 10  // from here on a file without intents is emptied
	intentsLarge   = 1 << 20   // by so much one with some grows before it is written anew
	mostIntentName = 1 << 10   // bytes of a name; longer ones go without
)

// openIntents opens the file and returns the intents that were left in it. The error is
// of a file that a newer program wrote.
func openIntents(path string, log *slog.Logger) (*intents, error) {
	i := &intents{log: log, path: path, under: map[uint64]intent{}}
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		i.failed("read", err)
	default:
		if i.under, err = readIntents(raw); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	}
	for n := range i.under {
		i.last = max(i.last, n)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.rewrite()
	return i, nil
}

// readIntents returns the intents of a file that have not ended.
func readIntents(raw []byte) (map[uint64]intent, error) {
	under := map[uint64]intent{}
	head, rest, _ := bytes.Cut(raw, []byte("\n"))
	text, ok := bytes.CutPrefix(head, []byte(intentsHead))
	version, err := strconv.Atoi(string(text))
	if !ok || err != nil {
		return under, nil // cut off, or damaged: nobody needs it
	}
	if version > intentsVersion {
		return nil, fmt.Errorf("it has version %d, this program knows versions up to %d: use the newer program that wrote it", version, intentsVersion)
	}
	for line := range bytes.Lines(rest) {
		text, whole := strings.CutSuffix(string(line), "\n")
		if sign, number, ok := strings.Cut(text, " "); whole && ok {
			switch sign {
			case "+":
				if n, it, ok := readIntent(number); ok && len(under) < mostIntents {
					under[n] = it
				}
			case "-":
				if n, err := strconv.ParseUint(number, 10, 64); err == nil {
					delete(under, n)
				}
			}
		}
	}
	return under, nil
}

// readIntent reads "N SERVER KIND NAME".
func readIntent(text string) (n uint64, it intent, ok bool) {
	words := strings.SplitN(text, " ", 4)
	if len(words) < 4 || len(words[3]) > 4*mostIntentName+2 {
		return 0, it, false
	}
	n, err := strconv.ParseUint(words[0], 10, 64)
	if err != nil || it.server.UnmarshalText([]byte(words[1])) != nil {
		return 0, it, false
	}
	name, err := strconv.Unquote(words[3])
	if err != nil || name == "" {
		return 0, it, false
	}
	switch words[2] {
	case "run":
		it.object.Run = name
	case "model":
		it.object.Model = name
	default:
		return 0, it, false
	}
	return n, it, true
}

// line is the intent as readIntent reads it, with its sign.
func (it intent) line(n uint64) string {
	kind, name := "run", it.object.Run
	if it.object.Model != "" {
		kind, name = "model", it.object.Model
	}
	return fmt.Sprintf("+ %d %s %s %s\n", n, it.server, kind, strconv.Quote(name))
}

// left returns the intents that have not ended, oldest first, each with what ends it.
func (i *intents) left() (list []intent, end []func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	numbers := make([]uint64, 0, len(i.under))
	for n := range i.under {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		list, end = append(list, i.under[n]), append(end, func() { i.end(n) })
	}
	return list, end
}

// begin writes that a change of an object is asked for, and returns what ends it. Where
// there are too many, or the file cannot be written, it ends nothing.
func (i *intents) begin(server resource.UID, o Object) (end func()) {
	if len(o.Run) > mostIntentName || len(o.Model) > mostIntentName {
		return func() {}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.under) >= mostIntents {
		return func() {}
	}
	it := intent{server, o}
	i.last++
	n := i.last
	i.under[n] = it
	i.write(it.line(n))
	return func() { i.end(n) }
}

func (i *intents) end(n uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.under[n]; !ok {
		return
	}
	delete(i.under, n)
	i.write(fmt.Sprintf("- %d\n", n))
	if i.ended {
		return
	}
	if len(i.under) == 0 && i.size > intentsSmall || i.size > i.least+intentsLarge {
		i.rewrite()
	}
}

// open counts the intents that have not ended.
func (i *intents) open() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.under)
}

// write adds a line. The caller holds mu.
func (i *intents) write(line string) {
	if i.ended {
		return
	}
	if i.file == nil || i.torn {
		i.rewrite() // it may be possible again
		return
	}
	n, err := io.WriteString(i.file, line)
	i.size += n
	if i.torn = err != nil; i.torn {
		i.failed("write", err)
	}
}

// rewrite replaces the file by one that has nothing but what has not ended. The caller
// holds mu.
func (i *intents) rewrite() {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%d\n", intentsHead, intentsVersion)
	for n, it := range i.under {
		b.WriteString(it.line(n))
	}
	fresh, err := os.OpenFile(i.path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		i.failed("write", err)
		return
	}
	if _, err = io.WriteString(fresh, b.String()); err == nil {
		err = os.Rename(i.path+".new", i.path)
	}
	if err != nil {
		_ = fresh.Close()
		i.failed("write", err)
		return
	}
	if i.file != nil {
		_ = i.file.Close()
	}
	i.file, i.size, i.least, i.torn, i.told = fresh, b.Len(), b.Len(), false, false
}

// failed tells once that the file is of no use.
func (i *intents) failed(what string, err error) {
	if i.told {
		return
	}
	i.told = true
	i.log.Warn("intents of the MLflow proxy not kept", slog.String("what", what), slog.String(telemetry.Error, err.Error()))
}

// close closes the file. What has not ended stays in it.
func (i *intents) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ended = true; i.file != nil {
		_ = i.file.Close()
	}
}
