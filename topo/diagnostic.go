package topo

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Position is a place in a scenario file. Line and Col count from 1 (Col in
// characters); both are 0 where the scenario was built in Go.
type Position struct {
	File      string `json:"file"`
	Line, Col int
}

func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// Diagnostic is one thing that is wrong with a scenario file.
type Diagnostic struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Col    int    `json:"col"`
	Len    int    `json:"len"`    // characters to underline
	Msg    string `json:"msg"`    // what is wrong, and what was expected
	Hint   string `json:"hint"`   // what would mend it, if that is known
	Source string `json:"source"` // the line of the file
}

// Error is the message with its position, the source line and a mark under
// the place.
func (d Diagnostic) Error() string {
	var b strings.Builder
	if d.File != "" || d.Line != 0 {
		b.WriteString(Position{d.File, d.Line, d.Col}.String() + ": ")
	}
	b.WriteString(d.Msg)
	if d.Hint != "" {
		b.WriteString("; " + d.Hint)
	}
	if d.Line == 0 || strings.TrimSpace(d.Source) == "" {
		return b.String()
	}
	source, col, length := clip(d.Source, d.Col, max(d.Len, 1))
	number := fmt.Sprintf("%5d", d.Line)
	fmt.Fprintf(&b, "\n%s | %s", number, source)
	fmt.Fprintf(&b, "\n%s | %s%s", strings.Repeat(" ", len(number)), indent(source, col-1), strings.Repeat("^", length))
	return b.String()
}

// clip cuts a very long source line so that the marked place stays in sight.
func clip(source string, col, length int) (string, int, int) {
	const width = 150
	runes := []rune(source)
	from := 0
	if len(runes) > width && col > width/2 {
		from = min(col-width/2, len(runes)-width)
	}
	to := min(from+width, len(runes))
	col -= from
	return string(runes[from:to]), col, max(1, min(length, to-from-col+1))
}

// indent is the white space that reaches column n of source, tabs kept.
func indent(source string, n int) string {
	var b strings.Builder
	for _, r := range source {
		if n <= 0 {
			break
		}
		if r != '\t' {
			r = ' '
		}
		b.WriteRune(r)
		n--
	}
	b.WriteString(strings.Repeat(" ", max(n, 0)))
	return b.String()
}

// Diagnostics is all that is wrong with a scenario file, in order of
// position. It is the error of Load, Parse and Expand for a bad file.
type Diagnostics []Diagnostic

// Error lists them all, an empty line between two.
func (ds Diagnostics) Error() string {
	texts := make([]string, len(ds))
	for i, d := range ds {
		texts[i] = d.Error()
	}
	return strings.Join(texts, "\n\n")
}

// sorted puts ds in order of position and drops repetitions.
func (ds Diagnostics) sorted() Diagnostics {
	slices.SortStableFunc(ds, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return slices.Compact(ds)
}

// err is ds as an error, nil when there is nothing in it.
func (ds Diagnostics) err() error {
	if len(ds) == 0 {
		return nil
	}
	return ds.sorted()
}

// valueError is what is wrong with one value, before it is known where in
// the file the value stands.
type valueError struct{ Msg, Hint string }

func (e *valueError) Error() string {
	if e.Hint == "" {
		return e.Msg
	}
	return e.Msg + "; " + e.Hint
}

// Explain is what is wrong with a value that ParseRate, ParseDuration, ParseSize
// or ParsePercent refused, and what would mend it, if that is known.
func Explain(err error) (msg, hint string) {
	if e, ok := errors.AsType[*valueError](err); ok {
		return e.Msg, e.Hint
	}
	return err.Error(), ""
}

func didYouMean(s string) string { return "did you mean " + s + "?" }

// suggest is did-you-mean for word among candidates, or "".
func suggest(word string, candidates []string) string {
	if near := Nearest(word, candidates); near != "" {
		return didYouMean(near)
	}
	return ""
}

// oneOf lists candidates for a message: "one of a, b, c".
func oneOf(candidates []string) string {
	const most = 12
	var once []string
	for _, c := range candidates {
		if !slices.Contains(once, c) {
			once = append(once, c)
		}
	}
	candidates = once
	switch n := len(candidates); {
	case n == 0:
		return "one that is in the file, and it has none"
	case n == 1:
		return candidates[0]
	case n > most:
		return fmt.Sprintf("one of %s … (%d in all)", strings.Join(candidates[:most], ", "), n)
	}
	return "one of " + strings.Join(candidates, ", ")
}

// Nearest is the candidate that word was probably meant to be: the one with
// the fewest edits, if they are few for its length, or "".
func Nearest(word string, candidates []string) string {
	best, bestEdits := "", max(1, (utf8.RuneCountInString(word)+1)/3)+1
	for _, c := range candidates {
		if e := edits(strings.ToLower(word), strings.ToLower(c)); e < bestEdits && c != word {
			best, bestEdits = c, e
		}
	}
	return best
}

// edits is the Levenshtein distance with neighbouring letters exchanged
// counted as one edit (optimal string alignment).
func edits(a, b string) int {
	s, t := []rune(a), []rune(b)
	if len(s) > 64 || len(t) > 64 {
		return 64
	}
	before, row := make([]int, len(t)+1), make([]int, len(t)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(s); i++ {
		next := make([]int, len(t)+1)
		next[0] = i
		for j := 1; j <= len(t); j++ {
			cost := 1
			if s[i-1] == t[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && s[i-1] == t[j-2] && s[i-2] == t[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(t)]
}
