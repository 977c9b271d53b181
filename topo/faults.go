package topo

import (
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/invopop/jsonschema"
	validator "github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"go.yaml.in/yaml/v4"
)

// checker collects what is wrong with one file. It remembers which values are
// bad so that nothing else is said about what hangs on them.
type checker struct {
	doc  *document
	made map[string]bool // paths that generate: made, see Scenario.full
	ds   Diagnostics
	bad  []string // joined paths
	form int      // how many of bad are of the form, not of the meaning
}

// join makes a path comparable; keys hold no line feeds.
func join(path []string) string { return strings.Join(path, "\n") + "\n" }

// fault reports the value at path.
func (c *checker) fault(path []string, msg, hint string) {
	c.bad = append(c.bad, join(path))
	c.ds = append(c.ds, c.doc.diagnose(path, c.made, dotted(path)+msg, hint))
}

// faultTwice reports the value at path, which generate makes too.
func (c *checker) faultTwice(path []string, what string) {
	c.bad = append(c.bad, join(path))
	c.ds = append(c.ds, c.doc.diagnose(path, nil, fmt.Sprintf("%s%s is written out here, and generate makes it too", dotted(path), what), "choose another name here"))
}

// faultKey reports the key itself at the end of path.
func (c *checker) faultKey(path []string, msg, hint string) {
	c.bad = append(c.bad, join(path))
	key, _, _ := c.doc.locate(path)
	if key == nil || len(path) == 0 {
		key = &yaml.Node{Line: 1, Column: 1}
	}
	c.ds = append(c.ds, c.doc.at(key.Line, key.Column, width(key), dotted(path[:max(len(path)-1, 0)])+msg, hint))
}

// lost reports whether the value at path, or what holds it, is bad.
func (c *checker) lost(path ...string) bool {
	p := join(path)
	return slices.ContainsFunc(c.bad, func(bad string) bool { return strings.HasPrefix(p, bad) })
}

// unsure reports whether it is not known what names path has, as its form, or
// that of the generate block, which adds names, is bad.
func (c *checker) unsure(path ...string) bool {
	formOnly := checker{bad: c.bad[:c.form]}
	return formOnly.touched(path...) || formOnly.touched("generate")
}

// touched reports whether the value at path, what holds it or anything in it
// is bad.
func (c *checker) touched(path ...string) bool {
	p := join(path)
	return slices.ContainsFunc(c.bad, func(bad string) bool {
		return strings.HasPrefix(p, bad) || strings.HasPrefix(bad, p)
	})
}

// dotted is path as messages begin with it: "topology.links[0].rate: ".
func dotted(path []string) string {
	var b strings.Builder
	for i, name := range path {
		_, target := schemaAt(path[:i])
		switch {
		case target != nil && target.Items != nil:
			b.WriteString("[" + name + "]")
		case i > 0:
			b.WriteString("." + name)
		default:
			b.WriteString(name)
		}
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	return b.String()
}

// diagnose points at the value at path, or as near to it as the file comes:
// at the generate block for what that made.
func (doc *document) diagnose(path []string, made map[string]bool, msg, hint string) Diagnostic {
	if doc == nil || doc.root == nil {
		return Diagnostic{Msg: msg, Hint: hint}
	}
	for i := range path {
		if made[join(path[:i+1])] {
			path = []string{"generate"}
			break
		}
	}
	key, value, _ := doc.locate(path)
	at := value
	// A mapping or list begins on the line after its key: show the key.
	if value.Kind != yaml.ScalarNode && key.Kind == yaml.ScalarNode || value.ShortTag() == "!!null" {
		at = key
	}
	if at == doc.root {
		return doc.at(1, 1, 1, msg, hint)
	}
	return doc.at(at.Line, at.Column, width(at), msg, hint)
}

// validate reports all that the schema finds.
func (c *checker) validate() {
	c.keyNames(c.doc.root, nil)
	err := compiled().Validate(plain(c.doc.root))
	if err == nil {
		return
	}
	ve, ok := err.(*validator.ValidationError)
	if !ok {
		c.fault(nil, err.Error(), "")
		return
	}
	c.leaves(ve)
}

// leaves reports the innermost causes of ve.
func (c *checker) leaves(ve *validator.ValidationError) {
	path := ve.InstanceLocation
	property, target := schemaAt(path)
	_, value, _ := c.doc.locate(path)
	switch k := ve.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			c.unknownKey(path, name, target)
		}
	case *kind.PropertyNames:
		// The validator's location of these is not reliable (it shares a
		// slice that changes): keyNames looks for itself.
	case *kind.Required:
		for _, name := range k.Missing {
			c.missing(path, name, target)
		}
	case *kind.Format:
		ve, ok := k.Err.(*valueError)
		if !ok {
			ve = &valueError{Msg: k.Err.Error()}
		}
		c.fault(path, ve.Msg, ve.Hint)
	case *kind.Pattern:
		if !c.lost(path...) {
			c.fault(path, fmt.Sprintf("%q is not %s", k.Got, expected(property, target)), "")
		}
	case *kind.MaxLength:
		if !c.lost(path...) {
			c.fault(path, fmt.Sprintf("%d characters are too many; expected %s", k.Got, expected(property, target)), "")
		}
	case *kind.Enum:
		c.enum(path, value, property, target)
	case *kind.Type:
		c.wrongType(path, k, value, property, target)
	case *kind.Minimum:
		c.fault(path, fmt.Sprintf("%s is too small; expected %s", number(k.Got), expected(property, target)), "")
	case *kind.Maximum:
		c.fault(path, fmt.Sprintf("%s is too large; expected %s", number(k.Got), expected(property, target)), "")
	case *kind.MinItems:
		c.fault(path, counted(k.Got, itemsOf(target)), "")
	case *kind.MaxItems:
		c.fault(path, counted(k.Got, itemsOf(target)), "")
	default:
		if len(ve.Causes) == 0 {
			c.fault(path, ve.Error(), "")
		}
		for _, cause := range ve.Causes {
			c.leaves(cause)
		}
	}
}

func number(r *big.Rat) string { return strings.TrimSuffix(r.FloatString(0), ".") }

// itemsOf says how many items a list should have.
func itemsOf(s *jsonschema.Schema) string {
	switch {
	case s.MaxItems != nil:
		return strconv.FormatUint(*s.MaxItems, 10)
	case s.MinItems != nil && *s.MinItems > 1:
		return fmt.Sprintf("at least %d", *s.MinItems)
	}
	return "at least one value"
}

// counted says how many items a list has and how many it should.
func counted(got int, want string) string {
	switch got {
	case 0:
		return "the list is empty; expected " + want
	case 1:
		return "the list has one item; expected " + want
	}
	return fmt.Sprintf("the list has %d items; expected %s", got, want)
}

func (c *checker) unknownKey(path []string, name string, object *jsonschema.Schema) {
	var known, free []string
	_, value, _ := c.doc.locate(path)
	for p := object.Properties.Oldest(); p != nil; p = p.Next() {
		known = append(known, p.Key)
		if k, _ := child(value, p.Key); k == nil {
			free = append(free, p.Key)
		}
	}
	near, hint := Nearest(name, free), ""
	if near != "" {
		hint = didYouMean(near)
		c.bad = append(c.bad, join(append(slices.Clone(path), near)))
	} else if homes := homesOf(name); len(homes) > 0 {
		hint = fmt.Sprintf("%s belongs in %s", name, strings.Join(homes, " or "))
		for _, home := range homes {
			c.bad = append(c.bad, join(append(strings.Split(home, "."), name)))
		}
	}
	c.faultKey(append(slices.Clone(path), name), fmt.Sprintf("unknown key %q; expected %s", name, oneOf(known)), hint)
}

// homesOf lists the objects, two levels deep at most, that have a key name.
func homesOf(name string) []string {
	var homes []string
	for _, s := range sections() {
		for _, path := range s.paths {
			if _, known := s.object.Properties.Get(name); known && path != "" && strings.Count(path, ".") < 2 && strings.Count(path, "[]") < 2 {
				homes = append(homes, path)
			}
		}
	}
	return homes
}

// keyNames reports the keys of mappings under path that are no right names.
func (c *checker) keyNames(n *yaml.Node, path []string) {
	_, target := schemaAt(path)
	if target == nil {
		return
	}
	for i, item := range n.Content {
		switch {
		case n.Kind == yaml.SequenceNode:
			c.keyNames(item, append(slices.Clone(path), strconv.Itoa(i)))
		case i%2 == 0:
			at := append(slices.Clone(path), item.Value)
			if names := target.PropertyNames; names != nil {
				if e, ok := formats[names.Format].check(item.Value).(*valueError); ok {
					c.faultKey(at, e.Msg, e.Hint)
				}
			}
			c.keyNames(n.Content[i+1], at)
		}
	}
}

func (c *checker) missing(path []string, name string, object *jsonschema.Schema) {
	// A key that is there with a slip in its name is reported as such.
	if _, value, _ := c.doc.locate(path); value.Kind == yaml.MappingNode {
		for i := 0; i < len(value.Content); i += 2 {
			key := value.Content[i].Value
			if _, known := object.Properties.Get(key); !known && Nearest(key, []string{name}) != "" {
				return
			}
		}
	}
	property, _ := object.Properties.Get(name)
	hint := ""
	if len(property.Examples) > 0 {
		hint = fmt.Sprintf("add for example `%s: %s`", name, flow(property.Examples[0]))
	}
	c.ds = append(c.ds, c.doc.diagnose(path, nil, fmt.Sprintf("%s%s is missing; expected %s", dotted(path), name, expected(property, deref(property))), hint))
	c.bad = append(c.bad, join(append(slices.Clone(path), name)))
}

func (c *checker) enum(path []string, value *yaml.Node, property, target *jsonschema.Schema) {
	if f, ok := formats[target.Format]; ok {
		if e, ok := f.check(value.Value).(*valueError); ok {
			c.fault(path, e.Msg, e.Hint)
			return
		}
	}
	c.fault(path, fmt.Sprintf("%q is not known; expected %s", value.Value, expected(property, target)), suggest(value.Value, words(target.Enum)))
}

// typeWords names JSON types as a user sees them.
var typeWords = map[string]string{
	"null": "nothing", "boolean": "a truth value", "number": "a number", "integer": "a number",
	"string": "text", "array": "a list", "object": "a mapping",
}

func (c *checker) wrongType(path []string, k *kind.Type, value *yaml.Node, property, target *jsonschema.Schema) {
	want := expected(property, target)
	if len(path) == 0 {
		c.fault(path, fmt.Sprintf("the file is %s; expected a mapping that begins with a line such as `name: quickstart`", typeWords[k.Got]), "")
		return
	}
	if value.Kind == yaml.ScalarNode && value.ShortTag() != "!!null" {
		c.wrongScalar(path, k, value, target, want)
		return
	}
	if k.Got == "null" {
		c.fault(path, "nothing is given; expected "+want, "write it or take the key out")
		return
	}
	hint := ""
	if k.Got == "array" && len(value.Content) == 1 && slices.Contains(k.Want, "string") {
		hint = "write it without brackets or dash"
	}
	c.fault(path, fmt.Sprintf("this is %s; expected %s", typeWords[k.Got], want), hint)
}

// wrongScalar reports a single value where another type was wanted.
func (c *checker) wrongScalar(path []string, k *kind.Type, value *yaml.Node, target *jsonschema.Schema, want string) {
	text := value.Value
	if slices.Contains(k.Want, "string") {
		if f, ok := formats[target.Format]; ok {
			if e, ok := f.check(text).(*valueError); ok {
				c.fault(path, e.Msg, e.Hint)
				return
			}
		}
		c.fault(path, fmt.Sprintf("%s is read as %s; expected %s", text, typeWords[k.Got], want), fmt.Sprintf("put it in quotes: %q", text))
		return
	}
	hint := ""
	switch n, err := strconv.Unquote(`"` + text + `"`); {
	case slices.Contains(k.Want, "array") && err == nil && !strings.ContainsAny(n, ",:[]{}"):
		hint = fmt.Sprintf("did you mean [%s]?", n)
	case slices.Contains(k.Want, "boolean") && slices.Contains([]string{"yes", "on", "y", "1"}, strings.ToLower(text)):
		hint = didYouMean("true")
	case slices.Contains(k.Want, "boolean") && slices.Contains([]string{"no", "off", "n", "0"}, strings.ToLower(text)):
		hint = didYouMean("false")
	case slices.Contains(k.Want, "integer") && k.Got == "string":
		if _, err := strconv.ParseUint(text, 10, 64); err == nil {
			hint = "take the quotes away"
		}
	}
	c.fault(path, fmt.Sprintf("%q is %s; expected %s", text, typeWords[k.Got], want), hint)
}

// expected says what a value should be.
func expected(property, s *jsonschema.Schema) string {
	if s == nil {
		return "something else"
	}
	example := ""
	if property != nil && len(property.Examples) > 0 {
		example = ", such as " + flow(property.Examples[0])
	}
	if f, ok := formats[s.Format]; ok && s.Enum == nil {
		return f.noun
	}
	switch {
	case s.Enum != nil:
		return oneOf(words(s.Enum))
	case s.Extras["type"] != nil && s.Items != nil:
		return "a value or a list of values"
	case s.Extras["type"] != nil:
		return "a single value"
	case s.Type == "integer":
		return "a whole number" + bounds(s)
	case s.Type == "boolean":
		return "true or false"
	case s.Type == "array":
		return "a list" + example
	case s.Type == "object" && example == "" && s.Properties != nil:
		var keys []string
		for p := s.Properties.Oldest(); p != nil; p = p.Next() {
			keys = append(keys, p.Key)
		}
		return "a mapping with " + strings.Join(keys, ", ")
	case s.Type == "object":
		return "a mapping" + example
	}
	return "text" + example
}

// bounds says " from 1 to 250".
func bounds(s *jsonschema.Schema) string {
	switch {
	case s.Minimum != "" && s.Maximum != "":
		return fmt.Sprintf(" from %s to %s", s.Minimum, s.Maximum)
	case s.Minimum != "":
		return fmt.Sprintf(" from %s", s.Minimum)
	}
	return ""
}

func words(values []any) []string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = fmt.Sprint(v)
	}
	return texts
}

// flow is v on one line of YAML.
func flow(v any) string {
	switch v := v.(type) {
	case map[string]any:
		items := make([]string, 0, len(v))
		for name, value := range v {
			items = append(items, name+": "+flow(value))
		}
		slices.Sort(items)
		return "{" + strings.Join(items, ", ") + "}"
	case []any:
		items := make([]string, len(v))
		for i, value := range v {
			items[i] = flow(value)
		}
		return "[" + strings.Join(items, ", ") + "]"
	case json.Number:
		return v.String()
	}
	return fmt.Sprint(v)
}
