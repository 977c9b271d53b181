package topo

import (
	"bytes"
	_ "embed" // number.go, for its rules
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"
)

//go:embed number.go
var numberSource string

// section is one object of the schema and where in a file it stands.
type section struct {
	object *jsonschema.Schema
	name   string // of its type
	paths  []string
}

// SchemaMarkdown writes the reference of scenario files, made from the schema:
// docs/scenario-reference.md is its output.
func SchemaMarkdown() []byte {
	var b bytes.Buffer
	b.WriteString(referenceHead)
	b.WriteString("\n## Units and forms\n\nA value that has a unit is written with it; a number alone is refused. A name is a lower-case letter, then lower-case letters, digits and dashes.\n\n| form | expected |\n|---|---|\n")
	units := map[string]string{}
	for _, f := range formats {
		if _, known := units[f.unit]; f.unit != "" && f.unit != "name" && !known {
			units[f.unit] = f.noun
			if f.most > 0 {
				units[f.unit] += fmt.Sprintf(", at most %d characters", f.most)
			}
		}
	}
	for _, unit := range slices.Sorted(maps.Keys(units)) {
		fmt.Fprintf(&b, "| %s | %s |\n", unit, cell(units[unit]))
	}
	for _, s := range sections() {
		s.write(&b)
	}
	b.WriteString("\n## Numbers\n\nAddresses, MACs, labels, route distinguishers (RD) and route targets (RT) follow from the order of the file:\n\n```text\n")
	b.WriteString(numberRules())
	b.WriteString("```\n")
	return b.Bytes()
}

const referenceHead = `<!-- Made from the Go types by "go test ./topo -run TestReference -update"; do not edit. -->
# Scenario files

A scenario is a YAML file, ` + "`<name>.vpclab.yml`" + `. The smallest that does something:

` + "```yaml" + `
name: quickstart
topology:
  backbone:
    pe: [pe1, pe2]
    links: [{between: [pe1, pe2]}]
  sites:
    hq: {kind: enterprise, pe: pe1}
    lab: {kind: enterprise, pe: pe2}
vpcs:
  acme: {service: l3vpn, sites: [hq, lab]}
` + "```" + `

Reading is strict: a key that is not in the tables below, a value without its unit or a name that stands for nothing is an
error, shown with its line, and nothing is built. ` + "`vpclab validate`" + ` shows all errors of a file, ` + "`vpclab render`" + ` the file with
all defaults and generated parts written out, and ` + "`vpclab schema`" + ` prints the JSON Schema (2020-12) behind both, for editors.
YAML anchors and merge keys (` + "`<<`" + `) may be used.
`

// sections lists the objects in the order in which a reader meets them.
func sections() []*section {
	var list []*section
	byName := map[string]*section{}
	var visit func(name, path string, object *jsonschema.Schema)
	visit = func(name, path string, object *jsonschema.Schema) {
		if s := byName[name]; s != nil {
			s.paths = append(s.paths, path)
			return
		}
		s := &section{object, name, []string{path}}
		byName[name] = s
		list = append(list, s)
		for p := object.Properties.Oldest(); p != nil; p = p.Next() {
			at := strings.TrimPrefix(path+"."+p.Key, ".")
			switch v := p.Value; {
			case v.Ref != "":
				visit(refName(v), at, deref(v))
			case v.Items != nil && v.Items.Ref != "":
				visit(refName(v.Items), at+"[]", deref(v.Items))
			case v.AdditionalProperties != nil && v.AdditionalProperties.Ref != "":
				visit(refName(v.AdditionalProperties), at+".<name>", deref(v.AdditionalProperties))
			}
		}
	}
	visit("Scenario", "", schema())
	return list
}

func refName(s *jsonschema.Schema) string { return strings.TrimPrefix(s.Ref, "#/$defs/") }

func (s *section) write(b *bytes.Buffer) {
	fmt.Fprintf(b, "\n## %s\n\n", s.name)
	if s.paths[0] != "" {
		fmt.Fprintf(b, "At `%s`.\n\n", strings.Join(s.paths, "`, `"))
	}
	fmt.Fprintf(b, "%s\n\n| key | type | default | meaning | example |\n|---|---|---|---|---|\n", cell(s.object.Description))
	for p := s.object.Properties.Oldest(); p != nil; p = p.Next() {
		fmt.Fprintf(b, "| `%s` | %s | %s | %s | %s |\n", p.Key, typeText(p.Value),
			s.defaultText(p.Key, p.Value), cell(p.Value.Description), exampleText(p.Value))
	}
}

// cell makes text fit a cell of a Markdown table.
func cell(text string) string {
	return strings.NewReplacer("|", "\\|", "<", "&lt;").Replace(text)
}

func (s *section) defaultText(key string, p *jsonschema.Schema) string {
	switch {
	case slices.Contains(s.object.Required, key):
		return "**required**"
	case p.Default != nil:
		return fmt.Sprintf("`%v`", p.Default)
	}
	return "–"
}

func exampleText(p *jsonschema.Schema) string {
	if len(p.Examples) == 0 {
		return "see below"
	}
	return "`" + flow(p.Examples[0]) + "`"
}

// typeText names the type of a property, with its unit and bounds.
func typeText(p *jsonschema.Schema) string {
	switch {
	case p.Ref != "":
		return fmt.Sprintf("[%s](#%s)", refName(p), strings.ToLower(refName(p)))
	case p.Enum != nil:
		return "`" + strings.Join(words(p.Enum), "`, `") + "`"
	case p.Extras["type"] != nil:
		return "one value or a list"
	case formats[p.Format].unit != "":
		return formats[p.Format].unit
	case p.Items != nil:
		return many(p) + typeText(p.Items)
	case p.AdditionalProperties != nil && p.Type == "object":
		return fmt.Sprintf("mapping: %s → %s", formats[p.PropertyNames.Format].unit, typeText(p.AdditionalProperties))
	case p.Type == "integer":
		return "whole number" + bounds(p)
	case p.Type == "boolean":
		return "`true`, `false`"
	}
	return "text"
}

func many(p *jsonschema.Schema) string {
	if p.MaxItems != nil && p.MinItems != nil && *p.MaxItems == *p.MinItems {
		return fmt.Sprintf("list of %d: ", *p.MaxItems)
	}
	return "list of: "
}

// numberRules is the comment at the head of number.go.
func numberRules() string {
	_, text, _ := strings.Cut(numberSource, "// Counting is from 1")
	text, _, _ = strings.Cut("// Counting is from 1"+text, "const (")
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimPrefix(strings.TrimPrefix(line, "//"), " ")
		b.WriteString(strings.ReplaceAll(line, "\t", "  "))
	}
	return b.String()
}
