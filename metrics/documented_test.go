package metrics

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Every field of what is stored is in docs/results.md, under the heading of its
// file; the parts of a struct that stand at another field, or in a file above, are
// not repeated.
func TestEveryStoredFieldIsDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "results.md"))
	require.NoError(t, err)
	seen := map[reflect.Type]bool{}
	for _, f := range []struct {
		file string
		v    any
	}{{"run.json", RunInfo{}}, {trialName, TrialRecord{}}, {fidelityName, RunFidelity{}}, {"summary.json", pointSummaryJSON{}}} {
		section := sectionOf(string(page), f.file)
		require.NotEmpty(t, section, "docs/results.md has no heading ### `%s`", f.file)
		for _, path := range jsonPaths(reflect.TypeOf(f.v), "", seen) {
			if !strings.Contains(section, "`"+path+"`") {
				t.Errorf("docs/results.md, ### `%s`: the field `%s` is not in the table", f.file, path)
			}
		}
	}
}

// sectionOf is the text under the heading that begins with a file's name.
func sectionOf(page, file string) string {
	_, rest, _ := strings.Cut(page, "\n### `"+file+"`")
	section, _, _ := strings.Cut(rest, "\n##")
	return section
}

// jsonPaths are the fields of a struct as JSON has them, with those of structs
// inside: kernel.release, sessions[].trials.
func jsonPaths(t reflect.Type, under string, seen map[reflect.Type]bool) (paths []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" && f.Anonymous {
			paths = append(paths, jsonPaths(f.Type, under, seen)...)
			continue
		}
		if name == "" || name == "-" {
			continue
		}
		path := under + name
		paths = append(paths, path)
		of, suffix := f.Type, "."
		for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
			if of.Kind() == reflect.Slice {
				suffix = "[]."
			}
			of = of.Elem()
		}
		if of.Kind() == reflect.Struct && of != reflect.TypeOf(time.Time{}) && !seen[of] {
			seen[of] = true
			paths = append(paths, jsonPaths(of, path+suffix, seen)...)
		}
	}
	return paths
}
