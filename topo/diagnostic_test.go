package topo

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDiagnosticText(t *testing.T) {
	for _, c := range []struct {
		d    Diagnostic
		want string
	}{
		{Diagnostic{Msg: "no place"}, "no place"},
		{Diagnostic{File: "f", Msg: "no place", Hint: "do it"}, "f: no place; do it"},
		{
			Diagnostic{File: "f", Line: 12, Col: 3, Len: 2, Msg: "wrong", Hint: "did you mean b?", Source: "a: bc"},
			"f:12:3: wrong; did you mean b?\n   12 | a: bc\n      |   ^^",
		},
		{
			Diagnostic{File: "f", Line: 1, Col: 3, Len: 1, Msg: "tabs stay tabs", Source: "\t\tx"},
			"f:1:3: tabs stay tabs\n    1 | \t\tx\n      | \t\t^",
		},
		{
			Diagnostic{File: "f", Line: 1, Col: 4, Len: 99, Msg: "no longer than the line", Source: "a: b"},
			"f:1:4: no longer than the line\n    1 | a: b\n      |    ^",
		},
	} {
		if got := c.d.Error(); got != c.want {
			t.Errorf("got\n%s\nwant\n%s", got, c.want)
		}
	}
}

func TestNearest(t *testing.T) {
	sites := []string{"texas", "illinois", "acme-hq"}
	for word, want := range map[string]string{
		"texsa": "texas", "taxes": "texas", "Texas": "texas", "ilinois": "illinois", "acmehq": "acme-hq",
		"paris": "", "": "", "x": "", "texas": "",
	} {
		if got := Nearest(word, sites); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestLoad(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none.vpclab.yml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin := os.Stdin
	os.Stdin = r
	defer func() { os.Stdin = stdin }()
	if _, err := w.WriteString("nmae: x\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err = Load("-"); err == nil || !strings.HasPrefix(err.Error(), "<stdin>:1:1: ") {
		t.Errorf("standard input: %v", err)
	}
}

// TestPositions holds that other packages can point into the file.
func TestPositions(t *testing.T) {
	sc := mustParse(t, `name: test
topology:
  backbone: {pe: [pe1]}
  sites:
    hq: {kind: enterprise, pe: pe1}
vpcs:
  acme: {service: l3vpn, sites: [hq]}
experiments:
  - kind: vpc-setup
    expect:
      - a == 0
      - b == 0
`)
	for _, c := range []struct {
		path []any
		want string
	}{
		{[]any{"name"}, "test.vpclab.yml:1:7"},
		{[]any{"experiments", 0, "expect", 1}, "test.vpclab.yml:12:9"},
		{[]any{"topology", "sites"}, "test.vpclab.yml:4:3"},
		{[]any{"topology", "sites", "hq", "machines"}, "test.vpclab.yml:5:5"},
		{nil, "test.vpclab.yml:1:1"},
	} {
		if got := sc.Pos(c.path...).String(); got != c.want {
			t.Errorf("%v is at %s, want %s", c.path, got, c.want)
		}
	}
	d := sc.Diagnose("wrong metric", "did you mean c?", "experiments", 0, "expect", 1)
	if want := "test.vpclab.yml:12:9: experiments[0].expect[1]: wrong metric; did you mean c?\n   12 |       - b == 0\n      |         ^^^^^^"; d.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", d.Error(), want)
	}
	if got := (&Scenario{Name: "built"}).Diagnose("wrong", "", "name").Error(); got != "name: wrong" {
		t.Errorf("without a file: %q", got)
	}
}
