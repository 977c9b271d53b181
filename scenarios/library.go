package scenarios

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
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

// Names are the library's scenarios, in order. They are the names of its files:
// every process of a lab makes the whole command line, whose help lists them, so
// nothing is parsed here.
func Names() []string {
	files, err := fs.Glob(library, "library/*"+suffix)
	if err != nil {
		panic("scenarios: list the library: " + err.Error()) // the pattern is constant
	}
	names := make([]string, 0, len(files))
	for _, f := range files {
		names = append(names, strings.TrimSuffix(path.Base(f), suffix))
	}
	return names
}

// List is the library, in order of names.
func List() []Entry {
	var entries []Entry
	for _, name := range Names() {
		e, _ := find(name)
		if sc, err := topo.Parse(e.file(), e.Source); err == nil {
			e.Description = sc.Description
		}
		entries = append(entries, e)
	}
	return entries
}

// file is where the library has the entry.
func (e Entry) file() string { return "library/" + e.Name + suffix }

// find returns the library's scenario of that name, without its description.
func find(name string) (Entry, bool) {
	e := Entry{Name: name}
	src, err := library.ReadFile(e.file())
	if err != nil {
		return Entry{}, false // there is no such file: all that can be wrong with what is in the binary
	}
	e.Source = src
	return e, true
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
	names := Names()
	hint := "the library has " + strings.Join(names, ", ")
	if near := topo.Nearest(name, names); near != "" {
		hint = "did you mean " + near + "? (" + hint + ")"
	}
	return fmt.Errorf("scenario %q: there is no such file and the library has none of that name: %s: %w", name, hint, os.ErrNotExist)
}
