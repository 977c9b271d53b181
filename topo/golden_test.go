package topo

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew; then read them")

// golden compares got with the file, or writes it.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (run with -update to make it)", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is not current (run with -update, and read it): -file +now\n%s", file, diff)
	}
}

// scenarios lists the scenario files of a folder of testdata.
func scenarioFiles(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", folder, "*.vpclab.yml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios in testdata/%s: %v", folder, err)
	}
	return files
}

func goldenFile(scenario string) string {
	return strings.TrimSuffix(scenario, ".vpclab.yml") + ".golden"
}

// TestReference keeps docs/scenario-reference.md equal to what the schema
// says, and so to the Go types.
func TestReference(t *testing.T) {
	golden(t, filepath.Join("..", "docs", "scenario-reference.md"), SchemaMarkdown())
}

// TestBadFiles holds the full text of the errors of each bad file: the text
// is what a user gets, so it is read, not only compared.
func TestBadFiles(t *testing.T) {
	files := scenarioFiles(t, "bad")
	if len(files) < 60 {
		t.Errorf("%d bad files; there were more", len(files))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			sc, err := Parse(filepath.Base(file), src)
			if err == nil {
				t.Fatalf("Parse takes it: %+v", sc)
			}
			ds, ok := err.(Diagnostics)
			if !ok {
				t.Fatalf("the error is a %T, not Diagnostics: %v", err, err)
			}
			for _, d := range ds {
				if d.Line == 0 || d.Col == 0 || d.Msg == "" {
					t.Errorf("no place or no text: %+v", d)
				}
			}
			golden(t, goldenFile(file), []byte(ds.Error()+"\n"))
		})
	}
}

// TestRender holds the expansion of each good file and reads it back: it must
// be the same lab, and its own expansion.
func TestRender(t *testing.T) {
	for _, file := range scenarioFiles(t, "good") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			sc, err := Load(file)
			if err != nil {
				t.Fatal(err)
			}
			text, err := sc.Render()
			if err != nil {
				t.Fatal(err)
			}
			golden(t, goldenFile(file), text)
			again, err := Parse("rendered", text)
			if err != nil {
				t.Fatalf("what Render wrote is refused:\n%v\n%s", err, text)
			}
			if diff := cmp.Diff(mustExpand(t, sc), mustExpand(t, again), cmpAddrs); diff != "" {
				t.Errorf("what Render wrote is another lab: -file +rendered\n%s", diff)
			}
			if once, err := again.Render(); err != nil || string(once) != string(text) {
				t.Errorf("rendering twice changes the file (%v):\n%s", err, cmp.Diff(string(text), string(once)))
			}
		})
	}
}
