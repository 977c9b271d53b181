package topo

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	validator "github.com/santhosh-tekuri/jsonschema/v6"
)

// TestSchemaAgreesWithTypes holds that each key of the types is in the schema
// with a meaning and an example, and the other way round.
func TestSchemaAgreesWithTypes(t *testing.T) {
	eachStruct(reflect.TypeFor[Scenario](), map[reflect.Type]bool{}, func(typ reflect.Type) {
		object := schema()
		if typ != reflect.TypeFor[Scenario]() {
			object = schema().Definitions[typ.Name()]
		}
		if object == nil || object.Description == "" {
			t.Fatalf("%s is not in the schema, or without a meaning", typ.Name())
		}
		keys := map[string]bool{}
		for _, key := range yamlKeys(typ) {
			keys[key] = true
			property, ok := object.Properties.Get(key)
			if !ok || property.Description == "" {
				t.Errorf("%s.%s is not in the schema, or without a meaning", typ.Name(), key)
			} else if len(property.Examples) == 0 && key != "topology" {
				t.Errorf("%s.%s has no example", typ.Name(), key)
			}
		}
		for p := object.Properties.Oldest(); p != nil; p = p.Next() {
			if !keys[p.Key] {
				t.Errorf("the schema has %s.%s, the type has not", typ.Name(), p.Key)
			}
		}
	})
}

func yamlKeys(typ reflect.Type) []string {
	var keys []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case strings.Contains(options, "inline"):
			keys = append(keys, yamlKeys(f.Type)...)
		case name != "-" && f.IsExported():
			keys = append(keys, name)
		}
	}
	return keys
}

// TestSchemaExamples holds each example and default against its own schema,
// with the formats that Parse goes by.
func TestSchemaExamples(t *testing.T) {
	doc, err := validator.UnmarshalJSON(bytes.NewReader(SchemaJSON()))
	if err != nil {
		t.Fatal(err)
	}
	c := validator.NewCompiler()
	c.AssertFormat()
	for name, f := range formats {
		c.RegisterFormat(&validator.Format{Name: name, Validate: func(v any) error {
			if s, ok := v.(string); ok {
				return f.check(s)
			}
			return nil
		}})
	}
	if err := c.AddResource(schemaID, doc); err != nil {
		t.Fatal(err)
	}
	for _, s := range sections() {
		at := "#/$defs/" + s.name
		if s.name == "Scenario" {
			at = "#"
		}
		for p := s.object.Properties.Oldest(); p != nil; p = p.Next() {
			one, err := c.Compile(schemaID + at + "/properties/" + p.Key)
			if err != nil {
				t.Fatal(err)
			}
			values := p.Value.Examples
			if p.Value.Default != nil {
				values = append(values[:len(values):len(values)], p.Value.Default)
			}
			for _, v := range values {
				if err := one.Validate(v); err != nil {
					t.Errorf("%s.%s: %v is not right: %v", s.name, p.Key, v, err)
				}
			}
		}
	}
}

// TestSmallestFile holds that the first example of the reference is a lab.
func TestSmallestFile(t *testing.T) {
	_, text, _ := strings.Cut(referenceHead, "```yaml\n")
	text, _, _ = strings.Cut(text, "```")
	if n := strings.Count(text, "\n"); n > 11 {
		t.Errorf("%d lines", n)
	}
	if p := mustExpand(t, mustParse(t, text)); len(p.Machines()) != 2 {
		t.Errorf("%d machines", len(p.Machines()))
	}
}

// TestDefaults holds that what the schema states as default is what a file
// without the key gets.
func TestDefaults(t *testing.T) {
	sc := mustParse(t, `
name: test
topology:
  backbone: {pe: [pe1, pe2], links: [{between: [pe1, pe2]}]}
  sites: {a: {kind: cloud, pe: pe1}, b: {kind: enterprise, pe: pe2}}
vpcs: {acme: {service: l3vpn, sites: [a, b]}}
experiments: [{kind: vpc-setup}, {kind: vpc-setup, name: vpc-setup-2}, {kind: vpc-setup}]
`)
	b, e := sc.Topology.Backbone, sc.Experiments
	if sc.Seed != 1 || sc.Kernel.Memory != 2<<30 || b.ASN != 65000 || b.MTU != 1600 || b.Links[0].Cost != 10 {
		t.Errorf("%+v", sc)
	}
	if a, b := sc.Topology.Sites[0].Value, sc.Topology.Sites[1].Value; a.Hosts != 1 || a.Machines != 0 || b.Hosts != 0 || b.Machines != 1 {
		t.Errorf("sites %+v and %+v", a, b)
	}
	if e[0].Trials != 6 || e[0].Warmup != 1 || e[0].Baseline != "firewall" || e[0].Name+e[1].Name+e[2].Name != "vpc-setupvpc-setup-2vpc-setup-3" {
		t.Errorf("experiments %+v", e)
	}
	if sc.Generate != nil || b.Links[0].Forward != nil {
		t.Error("a default made what was not asked for")
	}
}

// TestNumberRules holds that the reference shows the rules of number.go, and
// no code.
func TestNumberRules(t *testing.T) {
	if text := numberRules(); !strings.Contains(text, "20000+100v+e") || strings.Contains(text, "maxPEs") {
		t.Errorf("the rules are cut wrongly:\n%s", text)
	}
}
