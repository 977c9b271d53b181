// Command testsum reads `go test -json` and tells what a person wants to know:
// how many tests passed, why some were left out, and all that the failed ones
// printed. Its last line is for the script that started it.
//
//	go test -json ./... 2>&1 | testsum NAME
//
// It prints "totals PASSED FAILED SKIPPED" on standard error, and exits with 1
// if anything failed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// event is one line of `go test -json`; see go doc test2json.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build events
	Test       string
	Output     string
}

// unit is one test or, with no test name, one package.
type unit struct{ pkg, test string }

// summary is what a stream of events comes to.
type summary struct {
	passed, failed, skipped int
	output                  map[unit][]string
	failures                []unit
	reasons                 map[string]int // why tests were skipped
	stray                   []string       // lines that are no events
}

func main() {
	name := "tests"
	if len(os.Args) > 1 {
		name = os.Args[1]
	}
	began := time.Now()
	s := read(os.Stdin)
	s.print(os.Stdout, name, time.Since(began))
	fmt.Fprintf(os.Stderr, "totals %d %d %d\n", s.passed, s.failed, s.skipped)
	if s.failed > 0 {
		os.Exit(1)
	}
}

// read takes in the whole stream.
func read(r io.Reader) *summary {
	s := &summary{output: map[unit][]string{}, reasons: map[string]int{}}
	failedIn := map[string]bool{} // packages in which a test failed
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Action == "" {
			s.stray = append(s.stray, lines.Text())
			continue
		}
		u := unit{e.Package, e.Test}
		if u.pkg == "" {
			u.pkg = e.ImportPath
		}
		s.take(e.Action, u, e.Output, failedIn)
	}
	if err := lines.Err(); err != nil {
		s.stray = append(s.stray, err.Error())
		s.failed++
	}
	return s
}

// take counts top-level tests; a package counts only when it fails without one
// of its tests: it does not build, it panics, or its time is up.
func (s *summary) take(action string, u unit, output string, failedIn map[string]bool) {
	top := u.test != "" && !strings.Contains(u.test, "/")
	switch action {
	case "output", "build-output":
		s.output[u] = append(s.output[u], output)
		return
	case "pass":
		if top {
			s.passed++
		}
	case "skip":
		if top {
			s.skipped++
			s.reasons[reason(s.output[u])]++
		}
	case "fail":
		switch {
		case top:
			s.failed++
			failedIn[u.pkg] = true
		case u.test == "" && !failedIn[u.pkg]:
			s.failed++
		}
		s.failures = append(s.failures, u)
		return
	case "build-fail":
		s.failures = append(s.failures, u)
		return
	default:
		return
	}
	delete(s.output, u) // nobody will ask
}

// place is the position that begins a test's log line.
var place = regexp.MustCompile(`^\s+[\w.]+\.go:\d+: `)

// reason finds why a test was skipped.
func reason(output []string) string {
	for _, line := range output {
		if at := place.FindString(line); at != "" {
			return strings.TrimSpace(strings.TrimPrefix(line, at))
		}
	}
	return "no reason given"
}

func (s *summary) print(w io.Writer, name string, took time.Duration) {
	verdict := "ok   "
	if s.failed > 0 {
		verdict = "FAIL "
	}
	fmt.Fprintf(w, "%s %-42s %3.0f s  %d passed, %d failed, %d skipped\n", verdict, name, took.Seconds(), s.passed, s.failed, s.skipped)
	for _, why := range slices.Sorted(maps.Keys(s.reasons)) {
		fmt.Fprintf(w, "        %d skipped: %s\n", s.reasons[why], why)
	}
	if s.failed == 0 {
		return
	}
	for _, line := range s.stray {
		fmt.Fprintf(w, "      %s\n", line)
	}
	for _, u := range s.failures {
		fmt.Fprintf(w, "      ---- %s %s\n", u.pkg, u.test)
		for _, text := range s.output[u] {
			if !noise(text) {
				fmt.Fprintf(w, "      %s", text)
			}
		}
	}
}

// noise is what the test program prints about its own progress.
func noise(text string) bool {
	for _, prefix := range []string{"=== ", "--- PASS", "--- SKIP", "PASS\n", "ok  \t"} {
		if strings.HasPrefix(strings.TrimLeft(text, " "), prefix) {
			return true
		}
	}
	return false
}
