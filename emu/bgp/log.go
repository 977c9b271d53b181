package bgp

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/osrg/gobgp/v3/pkg/log"
)

// goLogger receives GoBGP's log: errors go on as events, the reason of a lost
// session is kept for its event, the rest is dropped.
type goLogger struct {
	post func(any)
}

// logLine is an error that GoBGP logged.
type logLine struct{ level, text string }

// downReason is why a session ended, logged by GoBGP just before the change
// of state is seen.
type downReason struct{ neighbor, reason string }

func (l *goLogger) Info(msg string, fields log.Fields) {
	if msg == "Peer Down" {
		l.post(downReason{neighbor: fmt.Sprint(fields["Key"]), reason: fmt.Sprint(fields["Reason"])})
	}
}

func (l *goLogger) Debug(string, log.Fields) {}
func (l *goLogger) Warn(string, log.Fields)  {}

func (l *goLogger) Error(msg string, fields log.Fields) {
	l.post(logLine{"error", format(msg, fields)})
}

// Fatal ends the process, as GoBGP expects; the parent reports the last lines
// of standard error.
func (l *goLogger) Fatal(msg string, fields log.Fields) {
	fmt.Fprintln(os.Stderr, "gobgp: fatal:", format(msg, fields))
	os.Exit(1)
}

func (l *goLogger) Panic(msg string, fields log.Fields) {
	panic("gobgp: " + format(msg, fields))
}

func (l *goLogger) SetLevel(log.LogLevel)  {}
func (l *goLogger) GetLevel() log.LogLevel { return log.InfoLevel }

func format(msg string, fields log.Fields) string {
	var b strings.Builder
	b.WriteString(msg)
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		fmt.Fprintf(&b, " %s=%v", k, fields[k])
	}
	return b.String()
}
