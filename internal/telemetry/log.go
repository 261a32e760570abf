package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// Format is how log records are written.
type Format string

// The formats.
const (
	FormatAuto Format = ""     // text on a terminal, JSON elsewhere
	FormatText Format = "text" // key=value, for people
	FormatJSON Format = "json" // one object a line, for machines
)

// ParseFormat reads a format from a flag or a configuration file.
func ParseFormat(s string) (Format, error) {
	switch f := Format(strings.ToLower(s)); f {
	case FormatAuto, FormatText, FormatJSON:
		return f, nil
	case "auto":
		return FormatAuto, nil
	}
	return "", fmt.Errorf("log format %q is not one of auto, text, json", s)
}

// ParseLevel reads a level from a flag or a configuration file.
func ParseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("log level %q is not one of debug, info, warn, error", s)
}

// NewLogger returns a logger that writes records of level and above to w.
// Durations are written as people read them ("1.5ms") in both formats.
func NewLogger(w io.Writer, level slog.Leveler, format Format) *slog.Logger {
	if format == FormatText || format == FormatAuto && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: readableDuration}))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func readableDuration(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.String(a.Key, roundDuration(a.Value.Duration()).String())
	}
	return a
}

// roundDuration keeps about three digits, so that records stay short.
func roundDuration(d time.Duration) time.Duration {
	for unit := time.Duration(1); unit < time.Minute; unit *= 10 {
		if d.Abs() < 1000*unit {
			return d.Round(unit)
		}
	}
	return d.Round(time.Second)
}
