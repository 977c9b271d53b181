package topo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// document is a scenario file as a tree of YAML nodes, with aliases and merge
// keys resolved, so that each value has a path and each path a place.
type document struct {
	file  string
	lines []string
	root  *yaml.Node // a mapping, or nil
}

// maxValues bounds a file with its aliases written out.
const maxValues = 1_000_000

// readDocument parses src. Diagnostics are of the YAML alone: its syntax,
// duplicate keys, tags. The document is usable where root is not nil.
func readDocument(file string, src []byte) (*document, Diagnostics) {
	src = bytes.TrimPrefix(src, []byte("\ufeff"))
	doc := &document{file: file, lines: strings.Split(string(src), "\n")}
	for i, line := range doc.lines {
		doc.lines[i] = strings.TrimSuffix(line, "\r")
	}
	if ds := doc.badText(); ds != nil {
		return doc, ds
	}
	var top, more yaml.Node
	loader, err := yaml.NewLoader(bytes.NewReader(src), yaml.WithUniqueKeys(false))
	if err == nil {
		err = loader.Load(&top)
	}
	if errors.Is(err, io.EOF) || err == nil && len(top.Content) == 1 && top.Content[0].ShortTag() == "!!null" {
		return doc, Diagnostics{doc.at(1, 1, 1, "the file is empty; expected a scenario", "begin with a line such as `name: quickstart`")}
	}
	if err != nil {
		return doc, Diagnostics{doc.syntax(err)}
	}
	r := &resolver{doc: doc, left: maxValues}
	doc.root = r.resolve(top.Content[0], nil)
	if err := loader.Load(&more); err == nil {
		r.report(&more, "a second document begins here; expected one scenario a file", "")
	} else if !errors.Is(err, io.EOF) {
		r.ds = append(r.ds, doc.syntax(err))
	}
	return doc, r.ds
}

// badText finds bytes that are no UTF-8 text.
func (doc *document) badText() Diagnostics {
	for i, line := range doc.lines {
		if !utf8.ValidString(line) {
			return Diagnostics{{File: doc.file, Line: i + 1, Col: 1, Msg: "this line is not UTF-8 text", Hint: "save the file in UTF-8"}}
		}
		for col, r := range []rune(line) {
			if r < ' ' && r != '\t' || r == 0x7f {
				return Diagnostics{doc.at(i+1, col+1, 1, fmt.Sprintf("control character %U is not allowed in a scenario", r), "")}
			}
		}
	}
	return nil
}

// at makes a Diagnostic that points into the file.
func (doc *document) at(line, col, length int, msg, hint string) Diagnostic {
	d := Diagnostic{File: doc.file, Line: line, Col: col, Len: length, Msg: msg, Hint: hint}
	if line >= 1 && line <= len(doc.lines) {
		d.Source = doc.lines[line-1]
	}
	return d
}

// syntaxHelp says in a user's words what the YAML parser means.
var syntaxHelp = []struct{ has, msg, hint string }{
	{"unknown anchor", "", "define it before with &name"},
	{"mapping values are not allowed", "a `key: value` is not allowed here", "indent it as the lines it belongs with, or put a value that has `: ` in it in quotes"},
	{"did not find expected ',' or '}'", "expected `,` or `}`", ""},
	{"did not find expected ',' or ']'", "expected `,` or `]`", ""},
	{"did not find expected '-' indicator", "expected `- ` as in the list's other lines", "indent this line as the lines it belongs with"},
	{"did not find expected key", "expected a `key: value` as in the lines before", "indent this line as the lines it belongs with"},
	{"could not find expected ':'", "expected `: ` after the key", "write `key: value`, with a space after the colon"},
	{"found unexpected end of stream", "the file ends within quotes", "close the quotes"},
	{"did not find expected node content", "expected a value", ""},
	{"found character that cannot start any token", "this character cannot begin a value", "put the value in quotes"},
}

var yamlWords = regexp.MustCompile(`^go-yaml load error in \w+ (?:\(.*?\) )?(?:at [\d:-]+: )?`)

// syntax turns an error of the YAML parser into a Diagnostic.
func (doc *document) syntax(err error) Diagnostic {
	le, ok := errors.AsType[*yaml.LoadError](err)
	if !ok {
		return doc.at(1, 1, 1, "YAML: "+yamlWords.ReplaceAllString(err.Error(), ""), "")
	}
	mark := le.Mark
	if strings.Contains(le.Message, "could not find expected ':'") && le.ContextMark.Line > 0 {
		mark = le.ContextMark // it is noticed a line too late
	}
	line, col := max(mark.Line, 1), max(mark.Column, 1)
	msg, hint := le.Message, ""
	for _, h := range syntaxHelp {
		if strings.Contains(le.Message, h.has) {
			msg, hint = cmpOr(h.msg, le.Message), h.hint
			break
		}
	}
	if line <= len(doc.lines) && strings.HasPrefix(strings.TrimLeft(doc.lines[line-1], " "), "\t") {
		msg, hint = "a tab is no indentation in YAML", "use spaces"
		col = strings.Index(doc.lines[line-1], "\t") + 1
	}
	if opened := le.ContextMark; strings.Contains(le.ContextMsg, "flow") && opened.Line > 0 {
		msg += fmt.Sprintf(" to close what begins at %d:%d", opened.Line, opened.Column)
	}
	// Past the end there is nothing to show: point at the last line.
	for line > 1 && (line > len(doc.lines) || line == len(doc.lines) && doc.lines[line-1] == "") {
		line--
		col = utf8.RuneCountInString(doc.lines[line-1]) + 1
	}
	return doc.at(line, col, 1, "YAML: "+msg, hint)
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// resolver copies a node tree with aliases and merge keys written out.
type resolver struct {
	doc  *document
	ds   Diagnostics
	left int // nodes still allowed
}

func (r *resolver) report(n *yaml.Node, msg, hint string) {
	r.ds = append(r.ds, r.doc.at(n.Line, n.Column, width(n), msg, hint))
}

// width is how many characters of its line a node takes, as far as known.
func width(n *yaml.Node) int {
	switch {
	case n.Kind == yaml.AliasNode:
		return len(n.Value) + 1
	case n.Kind != yaml.ScalarNode || n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 || strings.Contains(n.Value, "\n"):
		return 1
	case n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0:
		return utf8.RuneCountInString(n.Value) + 2
	}
	return max(utf8.RuneCountInString(n.Value), 1)
}

// resolve copies n. within holds the anchors being written out, against
// anchors that contain themselves.
func (r *resolver) resolve(n *yaml.Node, within []*yaml.Node) *yaml.Node {
	if r.left--; r.left < 0 {
		if r.left == -1 {
			r.report(n, fmt.Sprintf("the file has more than %d values with its aliases written out", maxValues), "")
		}
		return scalarNode("!!null", "")
	}
	switch n.Kind {
	case yaml.AliasNode:
		if n.Alias == nil || slices.Contains(within, n.Alias) {
			r.report(n, fmt.Sprintf("*%s stands within what it stands for", n.Value), "")
			return scalarNode("!!null", "")
		}
		c := r.resolve(n.Alias, append(within, n.Alias))
		copied := *c
		copied.Line, copied.Column = n.Line, n.Column
		return &copied
	case yaml.MappingNode:
		return r.mapping(n, within)
	case yaml.SequenceNode:
		c := *n
		c.Content = make([]*yaml.Node, len(n.Content))
		for i, item := range n.Content {
			c.Content[i] = r.resolve(item, within)
		}
		r.tag(n, "!!seq")
		return &c
	}
	r.tag(n, "!!str", "!!int", "!!float", "!!bool", "!!null", "!!timestamp")
	c := *n
	return &c
}

// tag complains of a tag that a scenario has no use for.
func (r *resolver) tag(n *yaml.Node, allowed ...string) {
	if t := n.ShortTag(); !slices.Contains(allowed, t) {
		r.ds = append(r.ds, r.doc.at(n.Line, n.Column, len(t), fmt.Sprintf("the tag %s is not allowed in a scenario", t), ""))
	}
}

// mapping copies a mapping, with merge keys written out and duplicates
// reported and dropped.
func (r *resolver) mapping(n *yaml.Node, within []*yaml.Node) *yaml.Node {
	r.tag(n, "!!map")
	c := *n
	c.Content = nil
	first := map[string]*yaml.Node{}
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.AliasNode && key.Alias != nil && key.Alias.Kind == yaml.ScalarNode {
			k := *key.Alias
			k.Line, k.Column = key.Line, key.Column
			key = &k
		}
		switch {
		case key.ShortTag() == "!!merge":
			merged = append(merged, r.merge(value, within)...)
			continue
		case key.Kind != yaml.ScalarNode:
			r.report(key, "a key must be a plain word", "")
			continue
		case first[key.Value] != nil:
			r.report(key, fmt.Sprintf("%q is here twice; the first is at line %d", key.Value, first[key.Value].Line), "keep one of the two")
			r.resolve(value, within)
			continue
		}
		first[key.Value] = key
		c.Content = append(c.Content, key, r.resolve(value, within))
	}
	for i := 0; i+1 < len(merged); i += 2 {
		if key := merged[i]; first[key.Value] == nil {
			first[key.Value] = key
			c.Content = append(c.Content, key, merged[i+1])
		}
	}
	return &c
}

// merge returns the keys and values that `<<: value` stands for.
func (r *resolver) merge(value *yaml.Node, within []*yaml.Node) []*yaml.Node {
	from := []*yaml.Node{value}
	if value.Kind == yaml.SequenceNode {
		from = value.Content
	}
	var all []*yaml.Node
	for _, f := range from {
		m := r.resolve(f, within)
		if m.Kind != yaml.MappingNode {
			r.report(f, "<< takes a mapping, such as *name", "")
			continue
		}
		for _, n := range m.Content {
			moved := *n
			if f.Kind == yaml.AliasNode {
				moved.Line, moved.Column = f.Line, f.Column
			}
			all = append(all, &moved)
		}
	}
	return all
}

func scalarNode(tag, value string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}
}

// child returns the key and value nodes under name; for a sequence the key is
// the item itself.
func child(n *yaml.Node, name string) (key, value *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == name {
				return n.Content[i], n.Content[i+1]
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i]
		}
	}
	return nil, nil
}

// locate finds path, or as much of it as is in the file. whole tells whether
// all of it is.
func (doc *document) locate(path []string) (key, value *yaml.Node, whole bool) {
	key, value = doc.root, doc.root
	for _, name := range path {
		k, v := child(value, name)
		if k == nil {
			return key, value, false
		}
		key, value = k, v
	}
	return key, value, true
}

// plain is the tree under n as the JSON Schema validator wants it.
func plain(n *yaml.Node) any {
	switch n.Kind {
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			m[n.Content[i].Value] = plain(n.Content[i+1])
		}
		return m
	case yaml.SequenceNode:
		s := make([]any, len(n.Content))
		for i, item := range n.Content {
			s[i] = plain(item)
		}
		return s
	}
	var v any
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool", "!!int", "!!float":
		if err := n.Decode(&v); err != nil {
			return n.Value
		}
	}
	switch v := v.(type) {
	case bool, int, int64, uint64:
		return v
	case float64:
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			return v
		}
	}
	return n.Value
}
