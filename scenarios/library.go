package scenarios

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vpclab/vpclab/topo"
)

// suffix of a scenario file's name.
const suffix = ".vpclab.yml"

//go:embed library/*.vpclab.yml
var library embed.FS

// Entry is one scenario of the library.
type Entry struct {
	Name        string
	Description string // from the file
	Source      []byte
}

// List is the library, in order of names.
func List() []Entry {
	files, err := fs.Glob(library, "library/*"+suffix)
	if err != nil {
		panic("scenarios: list the library: " + err.Error()) // the pattern is constant
	}
	entries := make([]Entry, 0, len(files))
	for _, f := range files {
		src, err := library.ReadFile(f)
		if err != nil {
			panic("scenarios: read the library: " + err.Error()) // the files are in the binary
		}
		e := Entry{Name: strings.TrimSuffix(path.Base(f), suffix), Source: src}
		if sc, err := topo.Parse(f, src); err == nil {
			e.Description = sc.Description
		}
		entries = append(entries, e)
	}
	return entries
}

// find returns the library's scenario of that name.
func find(name string) (Entry, bool) {
	entries := List()
	i := slices.IndexFunc(entries, func(e Entry) bool { return e.Name == name })
	if i < 0 {
		return Entry{}, false
	}
	return entries[i], true
}

// Load reads a scenario file, or a scenario of the library when nameOrPath is
// the name of one ("-": standard input; ./name is a file for certain), expands
// it and checks all of it, experiments and expectations included. What is
// wrong with the file comes back as topo.Diagnostics.
func Load(nameOrPath string) (*topo.Scenario, *topo.Plan, error) {
	if e, ok := find(nameOrPath); ok {
		return Parse(e.Name+suffix, e.Source)
	}
	sc, err := topo.Load(nameOrPath)
	if errors.Is(err, fs.ErrNotExist) && !looksLikePath(nameOrPath) {
		return nil, nil, unknownName(nameOrPath)
	}
	if err != nil {
		return nil, nil, err
	}
	return expand(sc)
}

// Parse is Load for a text that is in memory; filename is for messages.
func Parse(filename string, src []byte) (*topo.Scenario, *topo.Plan, error) {
	sc, err := topo.Parse(filename, src)
	if err != nil {
		return nil, nil, err
	}
	return expand(sc)
}

func expand(sc *topo.Scenario) (*topo.Scenario, *topo.Plan, error) {
	plan, err := topo.Expand(sc)
	if err != nil {
		return nil, nil, err
	}
	if ds := check(sc, plan); len(ds) > 0 {
		return nil, nil, ds
	}
	return sc, plan, nil
}

func looksLikePath(s string) bool {
	return s == "-" || strings.ContainsRune(s, filepath.Separator) || strings.HasSuffix(s, ".yml") || strings.HasSuffix(s, ".yaml")
}

// unknownName is the error for a name that is neither a file nor in the
// library.
func unknownName(name string) error {
	var names []string
	for _, e := range List() {
		names = append(names, e.Name)
	}
	hint := "the library has " + strings.Join(names, ", ")
	if near := topo.Nearest(name, names); near != "" {
		hint = "did you mean " + near + "? (" + hint + ")"
	}
	return fmt.Errorf("scenario %q: there is no such file and the library has none of that name: %s: %w", name, hint, os.ErrNotExist)
}
