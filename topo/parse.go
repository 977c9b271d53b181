package topo

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/invopop/jsonschema"
	"go.yaml.in/yaml/v4"
)

// maxFile bounds a scenario file, in bytes.
const maxFile = 16 << 20

// Load reads and checks the scenario file at path; "-" is standard input. The
// error is a Diagnostics where the file could be read but is not right.
func Load(path string) (*Scenario, error) {
	if path == "-" {
		src, err := io.ReadAll(io.LimitReader(os.Stdin, maxFile+1))
		if err != nil {
			return nil, fmt.Errorf("read the scenario from standard input: %w", err)
		}
		return Parse("<stdin>", src)
	}
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the scenario: %w", err)
	}
	return Parse(path, src)
}

// Parse checks src and returns it as a Scenario with its defaults filled in.
// filename is for messages. The error is a Diagnostics that holds all that is
// wrong: with the YAML, against the schema and in the meaning.
func Parse(filename string, src []byte) (*Scenario, error) {
	if len(src) > maxFile {
		return nil, Diagnostics{{File: filename, Msg: fmt.Sprintf("the file is larger than %d MiB", maxFile>>20)}}
	}
	doc, ds := readDocument(filename, src)
	if doc.root == nil {
		return nil, ds.err()
	}
	c := &checker{doc: doc, ds: ds}
	c.validate()
	c.form = len(c.bad)
	sc := &Scenario{File: filename, Source: bytes.Clone(src), doc: doc}
	if doc.root.Kind != yaml.MappingNode {
		return nil, c.ds.err()
	}
	if err := c.sound(doc.root, nil).Decode(sc); err != nil {
		return nil, append(c.ds, doc.syntax(err)).err()
	}
	sc.fillByKind()
	full := sc.full()
	c.made = full.made
	c.check(full)
	if len(full.Reservations) > 0 || slices.ContainsFunc(full.Experiments, func(e Experiment) bool { return len(e.Events) > 0 }) {
		if _, err := c.plan(full); err != nil {
			return nil, err
		}
	}
	if err := c.ds.err(); err != nil {
		return nil, err
	}
	return sc, nil
}

// sound copies the tree under path without what is bad in it, and with the
// schema's defaults where a key is absent.
func (c *checker) sound(n *yaml.Node, path []string) *yaml.Node {
	_, s := schemaAt(path)
	switch n.Kind {
	case yaml.SequenceNode:
		copied := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Line: n.Line, Column: n.Column}
		for i, item := range n.Content {
			at := append(slices.Clone(path), strconv.Itoa(i))
			if c.lost(at...) {
				item = empty(deref(s.Items))
			}
			copied.Content = append(copied.Content, c.sound(item, at))
		}
		return copied
	case yaml.MappingNode:
		copied := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: n.Line, Column: n.Column}
		for i := 0; i+1 < len(n.Content); i += 2 {
			at := append(slices.Clone(path), n.Content[i].Value)
			_, known := schemaAt(at)
			value := n.Content[i+1]
			switch {
			case known == nil:
				continue
			case c.lost(at...) && (s.Properties != nil || known.Type != "object"):
				continue
			case c.lost(at...): // a site or VPC: its name is known all the same
				value = empty(known)
			}
			copied.Content = append(copied.Content, n.Content[i], c.sound(value, at))
		}
		if s.Properties != nil {
			c.addDefaults(copied, s, path)
		}
		return copied
	}
	return n
}

// empty stands for a list's item that is bad, so that the others keep their
// places.
func empty(s *jsonschema.Schema) *yaml.Node {
	switch {
	case s != nil && s.Type == "object":
		return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	case s != nil && s.Type == "array":
		return &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	}
	return scalarNode("!!str", "")
}

func (c *checker) addDefaults(n *yaml.Node, object *jsonschema.Schema, path []string) {
	for p := object.Properties.Oldest(); p != nil; p = p.Next() {
		if k, _ := child(n, p.Key); k != nil {
			continue
		}
		target := deref(p.Value)
		var value *yaml.Node
		switch {
		case p.Value.Default != nil:
			value = &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(p.Value.Default)}
		case target.Properties != nil && target.Required == nil:
			if value = c.sound(empty(target), append(slices.Clone(path), p.Key)); value.Content == nil {
				continue
			}
		default:
			continue
		}
		n.Content = append(n.Content, scalarNode("!!str", p.Key), value)
	}
}

// fillByKind fills in the defaults that depend on something else.
func (sc *Scenario) fillByKind() {
	for i := range sc.Topology.Sites {
		site := &sc.Topology.Sites[i].Value
		if site.Kind == "cloud" && site.Hosts == 0 {
			site.Hosts = 1
		}
		_, _, given := sc.doc.locate([]string{"topology", "sites", sc.Topology.Sites[i].Name, "machines"})
		if site.Kind == "enterprise" && !given {
			site.Machines = 1
		}
	}
	for i := range sc.VPCs {
		sc.VPCs[i].Value.fillByService()
	}
	for i := range sc.VMs {
		sc.VMs[i].Value.fillByGuest()
		sc.VMs[i].Value.fillByStandby()
	}
	taken := map[string]bool{}
	for _, e := range sc.Experiments {
		taken[e.Name] = true
	}
	for i := range sc.Experiments {
		e := &sc.Experiments[i]
		switch {
		case e.Kind == "vpc-setup" && e.Baseline == "":
			e.Baseline = "firewall"
		case e.Kind == kindMigration, e.Kind == kindFailover:
			e.fillByMigration()
		}
		for n := 1; e.Name == "" && e.Kind != ""; n++ {
			name := e.Kind
			if n > 1 {
				name += "-" + strconv.Itoa(n)
			}
			if !taken[name] {
				e.Name, taken[name] = name, true
			}
		}
	}
}

// fillByService fills in the defaults that not every service has.
func (v *VPC) fillByService() {
	if v.Service == ServiceVPLS && v.MACAgeing == 0 {
		v.MACAgeing = defaultAgeing
	}
}

// Pos is where the value at path stands, or as near as the file comes to it.
// Elements are keys (string) and indexes (int):
// sc.Pos("experiments", 0, "expect", 2).
func (sc *Scenario) Pos(path ...any) Position {
	d := sc.Diagnose("", "", path...)
	return Position{d.File, d.Line, d.Col}
}

// Diagnose makes a Diagnostic that points at the value at path, for faults
// that other packages find.
func (sc *Scenario) Diagnose(msg, hint string, path ...any) Diagnostic {
	texts := make([]string, len(path))
	for i, element := range path {
		texts[i] = fmt.Sprint(element)
	}
	if sc.doc == nil {
		return Diagnostic{File: sc.File, Msg: dotted(texts) + msg, Hint: hint}
	}
	return sc.doc.diagnose(texts, nil, dotted(texts)+msg, hint)
}
