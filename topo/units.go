package topo

import (
	"fmt"
	"math/big"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Rate is bits a second on the wire; written 465mbit, 1gbit, 128kbit.
type Rate int64

// Duration is a span of time; written 13.5ms, 2s, 250us.
type Duration time.Duration

// Size is a number of bytes; written 256MiB, 1GiB, 4KiB.
type Size int64

// Percent is 0..100; written 0.1%.
type Percent float64

// Value is one scalar of a vary list, as written.
type Value string

// Prefix and Addr are written in the usual notation (10.0.0.0/24, 10.0.0.1).
type (
	Prefix = netip.Prefix
	Addr   = netip.Addr
)

// unit is a suffix and how many of the base unit it stands for.
type unit struct {
	name  string
	scale int64
}

var (
	rateUnits = []unit{{"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}}
	sizeUnits = []unit{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}}
	timeUnits = []unit{{"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"m", 60e9}}

	timePattern = regexp.MustCompile(`^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`)
)

// ParseRate reads a rate such as 465mbit.
func ParseRate(s string) (Rate, error) {
	v, err := parseQuantity(s, rateUnits, nounRate)
	if err == nil && v == 0 {
		err = &valueError{Msg: "a rate of 0 lets nothing through", Hint: "leave the rate out where there is no limit, or set loss: 100%"}
	}
	if err == nil && v > 1e12 {
		err = &valueError{Msg: fmt.Sprintf("%q is more than a link can carry: at most 1000gbit", s)}
	}
	return Rate(v), err
}

// ParseDuration reads a span of time such as 13.5ms; 1m30s is right too.
func ParseDuration(s string) (Duration, error) {
	d, err := time.ParseDuration(s)
	switch {
	case err == nil && d < 0:
		return 0, &valueError{Msg: fmt.Sprintf("%q is negative; expected %s", s, nounTime)}
	case err == nil && d > 24*time.Hour:
		return 0, &valueError{Msg: fmt.Sprintf("%q is more than a day; expected %s", s, nounTime)}
	case err == nil && timePattern.MatchString(s):
		return Duration(d), nil
	}
	if _, err := parseQuantity(s, timeUnits, nounTime); err != nil {
		return 0, err
	}
	return 0, &valueError{Msg: fmt.Sprintf("%q is not %s", s, nounTime)}
}

// ParseSize reads a number of bytes such as 256MiB.
func ParseSize(s string) (Size, error) {
	v, err := parseQuantity(s, sizeUnits, nounSize)
	return Size(v), err
}

// ParsePercent reads a share such as 0.1%.
func ParsePercent(s string) (Percent, error) {
	const form = nounPercent
	number, ok := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(number, 64)
	switch {
	case !isNumber(number) || err != nil:
		return 0, &valueError{Msg: fmt.Sprintf("%q is not a share; expected %s", s, form)}
	case !ok:
		return 0, &valueError{Msg: fmt.Sprintf("%q has no percent sign; expected %s", s, form), Hint: didYouMean(s + "%")}
	case v > 100:
		return 0, &valueError{Msg: fmt.Sprintf("%q is more than all; expected %s", s, form)}
	}
	return Percent(v), nil
}

// parseQuantity reads a decimal number and one of units, exactly; form says
// what was expected.
func parseQuantity(s string, units []unit, form string) (int64, error) {
	cut := len(s) - len(strings.TrimLeft(s, "0123456789."))
	number, suffix := s[:cut], s[cut:]
	if !isNumber(number) {
		return 0, &valueError{Msg: fmt.Sprintf("%q is not %s", s, form)}
	}
	i := slices.IndexFunc(units, func(u unit) bool { return u.name == suffix })
	if i < 0 {
		return 0, unitError(s, number, suffix, units, form)
	}
	exact, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, &valueError{Msg: fmt.Sprintf("%q is not %s", s, form)}
	}
	exact.Mul(exact, new(big.Rat).SetInt64(units[i].scale))
	whole := new(big.Int).Quo(exact.Num(), exact.Denom())
	if !whole.IsInt64() {
		return 0, &valueError{Msg: fmt.Sprintf("%q is too large; expected %s", s, form)}
	}
	return whole.Int64(), nil
}

// isNumber reports a plain decimal of a length that no one writes by mistake.
func isNumber(s string) bool {
	if len(s) > 20 || strings.Count(s, ".") > 1 || strings.HasPrefix(s, ".") || strings.HasSuffix(s, ".") {
		return false
	}
	return s != "" && strings.Trim(s, "0123456789.") == ""
}

// unitError says what is wrong with the unit and which was meant.
func unitError(s, number, suffix string, units []unit, form string) error {
	names := make([]string, len(units))
	for i, u := range units {
		names[i] = u.name
	}
	e := &valueError{Msg: fmt.Sprintf("%q has the unit %q; expected %s", s, suffix, form)}
	bare := strings.TrimSpace(suffix)
	switch {
	case suffix == "":
		e.Msg = fmt.Sprintf("%q has no unit; expected %s", s, form)
		return e
	case bare != suffix:
		e.Msg = fmt.Sprintf("%q has a space before its unit; expected %s", s, form)
	}
	for _, name := range names {
		if strings.EqualFold(bare, name) || strings.EqualFold(bare[:1], name[:1]) {
			e.Hint = didYouMean(number + name)
			break
		}
	}
	return e
}

// formatQuantity writes v with the largest unit that needs at most three
// decimals.
func formatQuantity(v int64, units []unit) string {
	for _, u := range slices.Backward(units) {
		if v >= u.scale && v%u.scale*1000%u.scale == 0 {
			return decimal(v, u.scale) + u.name
		}
	}
	return decimal(v, units[0].scale) + units[0].name
}

// decimal is v/scale, exactly.
func decimal(v, scale int64) string {
	s := new(big.Rat).SetFrac64(v, scale).FloatString(12)
	return strings.TrimRight(strings.TrimRight(s, "0"), ".")
}

func (r Rate) String() string { return formatQuantity(int64(r), rateUnits) }
func (s Size) String() string { return formatQuantity(int64(s), sizeUnits) }

func (d Duration) String() string {
	s := strings.Replace(time.Duration(d).String(), "µs", "us", 1)
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func (p Percent) String() string { return strconv.FormatFloat(float64(p), 'f', -1, 64) + "%" }

// Std is d as the standard library has it.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// MarshalText and UnmarshalText are the written forms, in YAML as in JSON.
func (r Rate) MarshalText() ([]byte, error)     { return []byte(r.String()), nil }
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }
func (s Size) MarshalText() ([]byte, error)     { return []byte(s.String()), nil }
func (p Percent) MarshalText() ([]byte, error)  { return []byte(p.String()), nil }

func (r *Rate) UnmarshalText(b []byte) error     { return unmarshal(r, b, "0kbit", ParseRate) }
func (d *Duration) UnmarshalText(b []byte) error { return unmarshal(d, b, "0s", ParseDuration) }
func (s *Size) UnmarshalText(b []byte) error     { return unmarshal(s, b, "0KiB", ParseSize) }
func (p *Percent) UnmarshalText(b []byte) error  { return unmarshal(p, b, "0%", ParsePercent) }

// unmarshal parses b into p. The zero value, which MarshalText writes as
// zero, is read back even where a user may not write it.
func unmarshal[T any](p *T, b []byte, zero string, parse func(string) (T, error)) error {
	var v T
	if string(b) == zero {
		*p = v
		return nil
	}
	v, err := parse(string(b))
	if err == nil {
		*p = v
	}
	return err
}

// UnmarshalYAML keeps the text as it was written: 010 stays 010.
func (v *Value) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: expected one value", n.Line)
	}
	*v = Value(n.Value)
	return nil
}

// MarshalYAML writes the text as it was read: a number without quotes.
func (v Value) MarshalYAML() (any, error) {
	return &yaml.Node{Kind: yaml.ScalarNode, Value: string(v)}, nil
}

// Map is a YAML mapping whose order counts: numbers are given by it.
type Map[T any] []Entry[T]

// Entry is one key of a Map.
type Entry[T any] struct {
	Name  string
	Value T
}

// Get returns the value under name.
func (m Map[T]) Get(name string) (T, bool) {
	if i := m.Index(name); i >= 0 {
		return m[i].Value, true
	}
	var zero T
	return zero, false
}

// Index is the place of name from 0, or -1.
func (m Map[T]) Index(name string) int {
	return slices.IndexFunc(m, func(e Entry[T]) bool { return e.Name == name })
}

// Names returns the keys in order.
func (m Map[T]) Names() []string {
	names := make([]string, len(m))
	for i, e := range m {
		names[i] = e.Name
	}
	return names
}

// UnmarshalYAML keeps the order of the file. Where the values are lists, one
// value may stand for a list of one.
func (m *Map[T]) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: expected a mapping", n.Line)
	}
	*m = make(Map[T], 0, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		var v T
		value := n.Content[i+1]
		if value.Kind == yaml.ScalarNode && reflect.TypeFor[T]().Kind() == reflect.Slice {
			value = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: []*yaml.Node{value}}
		}
		if err := value.Decode(&v); err != nil {
			return err
		}
		*m = append(*m, Entry[T]{n.Content[i].Value, v})
	}
	return nil
}

// MarshalYAML writes the entries in order.
func (m Map[T]) MarshalYAML() (any, error) {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, e := range m {
		var key, value yaml.Node
		if err := key.Encode(e.Name); err != nil {
			return nil, err
		}
		if err := value.Encode(e.Value); err != nil {
			return nil, fmt.Errorf("write %s: %w", e.Name, err)
		}
		n.Content = append(n.Content, &key, &value)
	}
	return n, nil
}

// JSONSchemaAlias tells the schema generator that a Map is written as an
// object.
func (Map[T]) JSONSchemaAlias() any { return map[string]T(nil) }
