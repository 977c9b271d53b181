package topo

import (
	"bytes"
	_ "embed" // scenario.go and its like, for their comments
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
	"sync"

	"github.com/invopop/jsonschema"
	validator "github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

// schemaID names the schema; it is not fetched from there.
const schemaID = "https://github.com/vpclab/vpclab/scenario.schema.json"

//go:embed scenario.go
var scenarioSource []byte

//go:embed operation.go
var operationSource []byte

//go:embed fault.go
var faultSource []byte

//go:embed recovery.go
var recoverySource []byte

// schema is made from the Go types once: structure from the fields, bounds and
// defaults from their tags, descriptions from the comments.
var schema = sync.OnceValue(makeSchema)

// SchemaJSON is the JSON Schema (2020-12) of scenario files: the one that
// Parse validates with, for editors and other programs.
func SchemaJSON() []byte {
	b, err := json.Marshal(schema())
	if err != nil {
		panic("topo: write the schema: " + err.Error())
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, b, "", "  "); err != nil {
		panic("topo: write the schema: " + err.Error())
	}
	pretty.WriteByte('\n')
	return pretty.Bytes()
}

// compiled is the schema made ready to validate with.
var compiled = sync.OnceValue(func() *validator.Schema {
	doc, err := validator.UnmarshalJSON(bytes.NewReader(SchemaJSON()))
	if err != nil {
		panic("topo: read the schema: " + err.Error())
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
		panic("topo: compile the schema: " + err.Error())
	}
	return c.MustCompile(schemaID)
})

func makeSchema() *jsonschema.Schema {
	comments := fieldComments()
	r := jsonschema.Reflector{
		FieldNameTag:               "yaml",
		RequiredFromJSONSchemaTags: true,
		ExpandedStruct:             true,
		BaseSchemaID:               schemaID,
		Mapper:                     scalarSchema,
		LookupComment: func(t reflect.Type, field string) string {
			return comments[t.Name()+"."+field]
		},
	}
	s := r.Reflect(Scenario{})
	s.ID = schemaID
	s.Title = "vpclab scenario"
	eachStruct(reflect.TypeFor[Scenario](), map[reflect.Type]bool{}, func(t reflect.Type) {
		object := s
		if t != reflect.TypeFor[Scenario]() {
			object = s.Definitions[t.Name()]
		}
		finish(object, t)
		explainShared(object, t, comments)
	})
	return s
}

// explainShared gives a key that two inline parts of t have the words of both.
func explainShared(object *jsonschema.Schema, t reflect.Type, comments map[string]string) {
	words := map[string]string{} // by key, of the parts before
	for i := range t.NumField() {
		part := t.Field(i)
		if part.Tag.Get("yaml") != ",inline" {
			continue
		}
		for j := range part.Type.NumField() {
			f := part.Type.Field(j)
			key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			text := comments[part.Type.Name()+"."+f.Name]
			if before := words[key]; before != "" {
				text = before + " " + text
				property, _ := object.Properties.Get(key)
				property.Description = text
			}
			words[key] = text
		}
	}
}

// scalarSchema gives the schema of the types that are written as one scalar.
func scalarSchema(t reflect.Type) *jsonschema.Schema {
	text := func(name string) *jsonschema.Schema {
		return &jsonschema.Schema{Type: "string", Format: name}
	}
	scalars := []string{"string", "number", "boolean"}
	switch t {
	case reflect.TypeFor[Rate]():
		return text("vpclab-rate")
	case reflect.TypeFor[Duration]():
		return text("vpclab-time")
	case reflect.TypeFor[Size]():
		return text("vpclab-size")
	case reflect.TypeFor[Percent]():
		return text("vpclab-percent")
	case reflect.TypeFor[Addr]():
		return text("vpclab-address")
	case reflect.TypeFor[MAC]():
		return text("vpclab-mac")
	case reflect.TypeFor[Prefix]():
		return text("vpclab-prefix")
	case reflect.TypeFor[[]Value]():
		one := uint64(1)
		return &jsonschema.Schema{
			MinItems: &one,
			Items:    &jsonschema.Schema{Extras: map[string]any{"type": scalars}},
			Extras:   map[string]any{"type": append([]string{"array"}, scalars...)},
		}
	}
	return nil
}

// eachStruct calls visit for t and each struct type that its fields hold. One
// that is inline is a part of the other's keys and not visited for that.
func eachStruct(t reflect.Type, seen map[reflect.Type]bool, visit func(reflect.Type)) {
	if isMap(t) {
		t = reflect.TypeOf(reflect.Zero(t).Interface().(interface{ JSONSchemaAlias() any }).JSONSchemaAlias())
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		eachStruct(t.Elem(), seen, visit)
	case reflect.Struct:
		if seen[t] || scalarSchema(t) != nil {
			return
		}
		seen[t] = true
		visit(t)
		eachField(t, seen, visit)
	}
}

func eachField(t reflect.Type, seen map[reflect.Type]bool, visit func(reflect.Type)) {
	for i := range t.NumField() {
		f := t.Field(i)
		switch tag := f.Tag.Get("yaml"); {
		case tag == ",inline":
			eachField(f.Type, seen, visit)
		case tag != "-" && f.IsExported():
			eachStruct(f.Type, seen, visit)
		}
	}
}

func isMap(t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[interface{ JSONSchemaAlias() any }]())
}

// finish adds what the generator has no tag for: examples, the form of the
// keys and values of mappings, and the patterns of formats.
func finish(object *jsonschema.Schema, t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if strings.Contains(options, "inline") {
			finish(object, f.Type)
			continue
		}
		property, ok := object.Properties.Get(name)
		if !ok {
			continue
		}
		if text := f.Tag.Get("example"); text != "" {
			var example any
			if err := yaml.Unmarshal([]byte(text), &example); err != nil {
				panic(fmt.Sprintf("topo: example of %s.%s: %v", t.Name(), f.Name, err))
			}
			property.Examples = []any{example}
		}
		if keys := f.Tag.Get("keys"); keys != "" {
			property.PropertyNames = &jsonschema.Schema{Format: keys}
		}
		if values := f.Tag.Get("values"); values != "" {
			property.AdditionalProperties.Format = values
		}
		for _, s := range []*jsonschema.Schema{property, property.Items, property.AdditionalProperties, property.PropertyNames} {
			addPattern(s)
		}
	}
}

func addPattern(s *jsonschema.Schema) {
	if s == nil || s.Enum != nil {
		return
	}
	if f, ok := formats[s.Format]; ok {
		s.Pattern = f.pattern
		if f.most > 0 {
			most := uint64(f.most)
			s.MaxLength = &most
		}
	}
}

// fieldComments reads the comments of scenario.go and its like: "Site." is
// the type's, "Site.PE" the field's.
func fieldComments() map[string]string {
	comments := map[string]string{}
	addComments(comments, "scenario.go", scenarioSource)
	addComments(comments, "operation.go", operationSource)
	addComments(comments, "fault.go", faultSource)
	addComments(comments, "recovery.go", recoverySource)
	return comments
}

func addComments(comments map[string]string, name string, source []byte) {
	file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		panic("topo: read the comments of " + name + ": " + err.Error())
	}
	flat := func(c *ast.CommentGroup) string { return strings.Join(strings.Fields(c.Text()), " ") }
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.TYPE {
			continue
		}
		for _, spec := range g.Specs {
			ts := spec.(*ast.TypeSpec)
			comments[ts.Name.Name+"."] = flat(g.Doc)
			st, ok := ts.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, f := range st.Fields.List {
				for _, name := range f.Names {
					comments[ts.Name.Name+"."+name.Name] = flat(f.Doc)
				}
			}
		}
	}
}

// schemaAt is the schema of the value at path, following the file's own
// structure: keys of objects and mappings, indexes of lists. The property is
// as its object has it, with description and example; the target is what that
// refers to. Both are nil where the schema knows no such key.
func schemaAt(path []string) (property, target *jsonschema.Schema) {
	property, target = schema(), schema()
	for _, name := range path {
		switch {
		case target == nil:
			return nil, nil
		case target.Items != nil:
			property = target.Items
		case target.Properties != nil:
			property, _ = target.Properties.Get(name)
		default:
			property = target.AdditionalProperties
		}
		target = deref(property)
	}
	return property, target
}

// deref follows a reference into the definitions.
func deref(s *jsonschema.Schema) *jsonschema.Schema {
	if s != nil && s.Ref != "" {
		return schema().Definitions[strings.TrimPrefix(s.Ref, "#/$defs/")]
	}
	return s
}
