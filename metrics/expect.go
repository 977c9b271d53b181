package metrics

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Expectation is one line of a scenario's `expect:`, parsed:
//
//	[selector.]metric[.aggregate] OP [number *] (quantity | [selector.]metric[.aggregate])
//
//	setup.first_packet.p50 < 1s
//	leaks == 0
//	vpn.rules < 0.1 * firewall.rules
//	system=vpn.sites=8.setup.matrix.max <= 2.5 s
//
// A selector is label=value, or a value alone, which is taken as the value of
// the label "system" or, failing that, of the one label that has it. Values
// with other characters than letters, digits, _ and - stand in quotes.
//
// Aggregates: p50 p95 p99 (any p1…p99: the nearest rank, so always a measured
// value; p50 is the median), median, min, max, mean, sum, n (how many).
// Without an aggregate, a comparison with a quantity is about every sample
// (the worst decides); one between two metrics is about their medians, but ==
// and != compare them trial by trial.
//
// Operators: < <= > >= == !=. Units of quantities: see unitHint; a plain
// number is in the metric's own unit.
type Expectation struct {
	text  string
	left  reference
	op    string
	scale float64 // factor of the right side
	bar   quantity
	right *reference // nil: compare with bar
}

// reference names some values: a metric, chosen by labels, aggregated.
type reference struct {
	selectors []selector
	words     []string // dotted name; leading words may be bare selectors
	agg       string   // "" where none is written
}

// selector is label=value; label "" is a value alone.
type selector struct{ label, value string }

func (r reference) String() string {
	var parts []string
	for _, s := range r.selectors {
		value := s.value
		if !plainWord.MatchString(value) {
			value = strconv.Quote(value)
		}
		parts = append(parts, s.label+"="+value)
	}
	parts = append(parts, r.words...)
	if r.agg != "" {
		parts = append(parts, r.agg)
	}
	return strings.Join(parts, ".")
}

// String is the expectation as it was written.
func (e *Expectation) String() string { return e.text }

// ExpectError is a syntax error in an expectation.
type ExpectError struct {
	Text   string // the whole expectation
	Offset int    // byte in Text, from 0, where the fault is
	Msg    string
	Hint   string // may be empty
}

func (e *ExpectError) Error() string {
	s := fmt.Sprintf("%q: column %d: %s", e.Text, e.Offset+1, e.Msg)
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

const grammarHint = "an expectation reads as `setup.first_packet.p50 < 1s`"

var (
	plainWord  = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	percentile = regexp.MustCompile(`^p[1-9][0-9]?$`)
	wordAggs   = []string{"median", "min", "max", "mean", "sum", "n"}
	operators  = []string{"<=", ">=", "==", "!=", "<", ">"}
)

// isAggregate reports whether a word is an aggregate's name.
func isAggregate(word string) bool {
	return slices.Contains(wordAggs, word) || percentile.MatchString(word)
}

// ParseExpect parses one expectation. The error is an *ExpectError.
func ParseExpect(text string) (*Expectation, error) {
	p := &expectParser{text: text}
	e, err := p.expectation()
	if err != nil {
		return nil, err
	}
	return e, nil
}

// expectParser reads an expectation from left to right.
type expectParser struct {
	text string
	pos  int
}

func (p *expectParser) fail(at int, hint, format string, args ...any) *ExpectError {
	return &ExpectError{Text: p.text, Offset: min(at, len(p.text)), Msg: fmt.Sprintf(format, args...), Hint: hint}
}

func (p *expectParser) rest() string { return p.text[p.pos:] }

func (p *expectParser) space() {
	for p.pos < len(p.text) {
		r, n := utf8.DecodeRuneInString(p.rest())
		if !unicode.IsSpace(r) {
			return
		}
		p.pos += n
	}
}

// found says what stands at the current place, for messages.
func (p *expectParser) found() string {
	f := strings.Fields(p.rest())
	if len(f) == 0 {
		return "the end"
	}
	return strconv.Quote(f[0])
}

func (p *expectParser) expectation() (*Expectation, *ExpectError) {
	e := &Expectation{text: p.text, scale: 1}
	p.space()
	if p.pos == len(p.text) {
		return nil, p.fail(p.pos, grammarHint, "the expectation is empty")
	}
	var err *ExpectError
	if e.left, err = p.reference(); err != nil {
		return nil, err
	}
	p.space()
	if e.op, err = p.operator(); err != nil {
		return nil, err
	}
	p.space()
	if err := p.rightSide(e); err != nil {
		return nil, err
	}
	p.space()
	if p.pos < len(p.text) {
		return nil, p.fail(p.pos, p.trailingHint(), "%s does not belong here: the expectation is complete before it", p.found())
	}
	return e, nil
}

func (p *expectParser) trailingHint() string {
	rest := p.rest()
	switch {
	case strings.HasPrefix(rest, "*"):
		return "a factor stands before the metric, as in 0.7 * precopy.bytes"
	case strings.HasPrefix(rest, "&") || strings.HasPrefix(rest, "and"):
		return "write two expectations"
	case rest != "" && rest[0] >= '0' && rest[0] <= '9':
		return "a quantity has one number and one unit, as 90s"
	}
	return ""
}

func (p *expectParser) operator() (string, *ExpectError) {
	for _, op := range operators {
		if strings.HasPrefix(p.rest(), op) {
			p.pos += len(op)
			return op, nil
		}
	}
	hint := "operators are < <= > >= == !="
	switch {
	case strings.HasPrefix(p.rest(), "="):
		hint = "did you mean =="
	case strings.HasPrefix(p.rest(), "≤"):
		hint = "did you mean <="
	case strings.HasPrefix(p.rest(), "≥"):
		hint = "did you mean >="
	}
	return "", p.fail(p.pos, hint, "expected an operator after %s, found %s", p.text[:p.pos], p.found())
}

// rightSide is [number *] (quantity | reference).
func (p *expectParser) rightSide(e *Expectation) *ExpectError {
	if p.pos == len(p.text) {
		return p.fail(p.pos, "write a quantity, as 250ms, or another metric", "nothing to compare with after %s", e.op)
	}
	if !p.atNumber() {
		ref, err := p.reference()
		e.right = &ref
		return err
	}
	at := p.pos
	q, err := p.quantity()
	if err != nil {
		return err
	}
	e.bar = q
	p.space()
	if !strings.HasPrefix(p.rest(), "*") {
		return nil
	}
	if q.unit != "" {
		return p.fail(at, "write it as a plain number", "the factor %s has a unit", q)
	}
	e.scale = q.value
	p.pos++
	p.space()
	switch {
	case p.pos == len(p.text):
		return p.fail(p.pos, "write a metric or a quantity", "nothing after the factor's *")
	case p.atNumber():
		e.bar, err = p.quantity()
	default:
		var ref reference
		ref, err = p.reference()
		e.right = &ref
	}
	return err
}

func (p *expectParser) atNumber() bool {
	s := strings.TrimLeft(p.rest(), "+-")
	s = strings.TrimPrefix(s, ".")
	return s != "" && s[0] >= '0' && s[0] <= '9'
}

var number = regexp.MustCompile(`^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?`)

// quantity is a number and perhaps a unit, with or without a space between.
func (p *expectParser) quantity() (quantity, *ExpectError) {
	lit := number.FindString(p.rest())
	if lit == "" {
		return quantity{}, p.fail(p.pos, "", "%s is no number", p.found())
	}
	v, err := strconv.ParseFloat(lit, 64)
	if err != nil {
		return quantity{}, p.fail(p.pos, "", "the number %s is out of range", lit)
	}
	p.pos += len(lit)
	after := p.pos
	p.space()
	at := p.pos
	for p.pos < len(p.text) {
		r, n := utf8.DecodeRuneInString(p.rest())
		if !unicode.IsLetter(r) && r != '%' && !(r == '/' && p.pos > at) {
			break
		}
		p.pos += n
	}
	unit := p.text[at:p.pos]
	if unit == "" {
		p.pos = after
		return quantity{value: v}, nil
	}
	if _, ok := units[unit]; !ok {
		return quantity{}, p.fail(at, unitHint(unit), "%q is no unit", unit)
	}
	return quantity{v, unit}, nil
}

// reference is words and selectors joined by dots.
func (p *expectParser) reference() (reference, *ExpectError) {
	var r reference
	start := p.pos
	for {
		at := p.pos
		word, err := p.word()
		if err != nil {
			return r, err
		}
		if strings.HasPrefix(p.rest(), "=") && !strings.HasPrefix(p.rest(), "==") {
			if len(r.words) > 0 {
				return r, p.fail(at, "put it first: "+word+"=….metric", "the selector %s= stands after a part of the metric's name", word)
			}
			p.pos++
			value, err := p.value()
			if err != nil {
				return r, err
			}
			if !strings.HasPrefix(p.rest(), ".") {
				return r, p.fail(p.pos, fmt.Sprintf("to compare, write %s == %s; to select, go on with .metric", word, value), "a metric is missing after %s=%s", word, value)
			}
			r.selectors = append(r.selectors, selector{word, value})
		} else {
			r.words = append(r.words, word)
		}
		if !strings.HasPrefix(p.rest(), ".") {
			break
		}
		p.pos++
	}
	return p.aggregate(r, start)
}

// aggregate takes the last word as an aggregate where it is one.
func (p *expectParser) aggregate(r reference, start int) (reference, *ExpectError) {
	last := r.words[len(r.words)-1]
	lastAt := p.pos - len(last)
	switch {
	case isAggregate(last):
		if len(r.words) == 1 {
			return r, p.fail(start, "write it after a metric, as setup.matrix."+last, "%s is an aggregate, not a metric", last)
		}
		r.agg, r.words = last, r.words[:len(r.words)-1]
	case last == "avg" || last == "average":
		return r, p.fail(lastAt, "did you mean mean", "%s is no aggregate", last)
	case last == "count" && len(r.words) > 1:
		return r, p.fail(lastAt, "did you mean n", "%s is no aggregate", last)
	case regexp.MustCompile(`^p[0-9]+$`).MatchString(last):
		return r, p.fail(lastAt, "percentiles are p1 to p99; the extremes are min and max", "%s is no aggregate", last)
	}
	for _, w := range r.words {
		if isAggregate(w) {
			return r, p.fail(start, "an aggregate comes last", "%s stands inside the metric's name", w)
		}
	}
	return r, nil
}

func isWordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// word is a letter and then letters, digits, _ and -.
func (p *expectParser) word() (string, *ExpectError) {
	at := p.pos
	for p.pos < len(p.text) && isWordByte(p.text[p.pos]) {
		p.pos++
	}
	w := p.text[at:p.pos]
	switch {
	case w == "" && at > 0 && p.text[at-1] == '.':
		return "", p.fail(at, "", "a word is missing after the dot, found %s", p.found())
	case w == "":
		return "", p.fail(at, grammarHint, "expected a metric, found %s", p.found())
	case w[0] >= '0' && w[0] <= '9' || w[0] == '-':
		return "", p.fail(at, grammarHint, "expected a metric, found %q: a metric begins with a letter", w)
	}
	return w, nil
}

// value is a selector's value: a plain word or a quoted text.
func (p *expectParser) value() (string, *ExpectError) {
	at := p.pos
	if strings.HasPrefix(p.rest(), `"`) {
		lit, err := strconv.QuotedPrefix(p.rest())
		if err != nil {
			return "", p.fail(at, `close it with "`, "the quoted value does not end")
		}
		v, err := strconv.Unquote(lit)
		if err != nil || v == "" {
			return "", p.fail(at, "", "the quoted value %s is empty or malformed", lit)
		}
		p.pos += len(lit)
		return v, nil
	}
	for p.pos < len(p.text) && isWordByte(p.text[p.pos]) {
		p.pos++
	}
	if p.pos == at {
		return "", p.fail(at, "write label=value.metric, or == to compare", "a value is missing after =, found %s", p.found())
	}
	return p.text[at:p.pos], nil
}
