package topo

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzParse: whatever the bytes, Parse gives a scenario or Diagnostics with
// places; a scenario expands, and what Render writes of it is read back.
func FuzzParse(f *testing.F) {
	for _, folder := range []string{"good", "bad"} {
		files, err := filepath.Glob(filepath.Join("testdata", folder, "*.vpclab.yml"))
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			src, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(src)
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		sc, err := Parse("fuzz", src)
		if err != nil {
			ds, ok := err.(Diagnostics)
			if !ok || len(ds) == 0 || ds.Error() == "" {
				t.Fatalf("the error is a %T: %v", err, err)
			}
			for _, d := range ds {
				if d.Line < 1 || d.Col < 1 {
					t.Errorf("no place: %+v", d)
				}
			}
			return
		}
		if _, err := Expand(sc); err != nil {
			t.Fatalf("Parse takes what Expand does not: %v", err)
		}
		text, err := sc.Render()
		if err != nil {
			t.Fatalf("Render: %v", err)
		}
		if _, err := Parse("rendered", text); err != nil {
			t.Fatalf("Render wrote what Parse refuses: %v\n%s", err, text)
		}
	})
}
