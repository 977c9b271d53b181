package stock

import (
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Module is one file to be loaded, after those it depends on.
type Module struct {
	Name string `json:"name"`
	Path string `json:"path"`
	Args string `json:"args,omitempty"` // given when it is loaded; nothing here sets them
}

// Modules knows the modules of one kernel build.
type Modules struct {
	dir     string
	paths   map[string]string   // module name -> file
	deps    map[string][]string // module name -> names it needs, nearest first
	builtin map[string]bool
}

// ReadModules reads the module folder of a kernel (…/modules/<release>). It
// takes modules.dep where depmod has run, else the files' own .modinfo.
func ReadModules(dir string) (*Modules, error) {
	t := &Modules{dir: dir, paths: map[string]string{}, deps: map[string][]string{}, builtin: map[string]bool{}}
	t.readBuiltin()
	err := t.readDep()
	if errors.Is(err, fs.ErrNotExist) {
		err = t.readFiles()
	}
	if err != nil {
		return nil, fmt.Errorf("modules in %s: %w", dir, err)
	}
	if len(t.paths) == 0 {
		return nil, fmt.Errorf("modules in %s: none found", dir)
	}
	return t, nil
}

// moduleName makes the kernel's name for a module of its file name.
func moduleName(path string) string {
	base, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

func (t *Modules) readBuiltin() {
	src, err := os.ReadFile(filepath.Join(t.dir, "modules.builtin"))
	if err != nil {
		return
	}
	for _, line := range strings.Fields(string(src)) {
		t.builtin[moduleName(line)] = true
	}
}

// SetBuiltin makes known that a module is part of the kernel, which its folder
// need not say.
func (t *Modules) SetBuiltin(name string) { t.builtin[name] = true }

// readDep reads the text form of depmod's output: "a.ko: b.ko c.ko".
func (t *Modules) readDep() error {
	f, err := os.Open(filepath.Join(t.dir, "modules.dep"))
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		file, deps, ok := strings.Cut(lines.Text(), ":")
		if !ok {
			continue
		}
		name := moduleName(file)
		t.paths[name] = filepath.Join(t.dir, file)
		t.deps[name] = []string{}
		for _, d := range strings.Fields(deps) {
			t.deps[name] = append(t.deps[name], moduleName(d))
		}
	}
	return lines.Err()
}

// readFiles finds the module files; what they depend on is read when asked.
func (t *Modules) readFiles() error {
	return filepath.WalkDir(t.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".ko") {
			t.paths[moduleName(path)] = path
		}
		return nil
	})
}

// needs gives the names that the module depends on.
func (t *Modules) needs(name string) ([]string, error) {
	if deps, ok := t.deps[name]; ok {
		return deps, nil
	}
	deps, err := modinfoDepends(t.paths[name])
	if err != nil {
		return nil, err
	}
	t.deps[name] = deps
	return deps, nil
}

// modinfoDepends reads the "depends" entry of a module's .modinfo section.
func modinfoDepends(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", path, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("module %s: no .modinfo section", path)
	}
	data, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", path, err)
	}
	for _, entry := range bytes.Split(data, []byte{0}) {
		if v, ok := bytes.CutPrefix(entry, []byte("depends=")); ok && len(v) > 0 {
			var deps []string
			for _, d := range strings.Split(string(v), ",") {
				deps = append(deps, moduleName(d))
			}
			return deps, nil
		}
	}
	return nil, nil
}

// Order lists the files to load for the named modules, dependencies first,
// and the names for which there is neither a file nor built-in code.
func (t *Modules) Order(names []string) (files []Module, missing []string, err error) {
	done := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		if done[name] || t.builtin[name] {
			return nil
		}
		done[name] = true
		path, ok := t.paths[name]
		if !ok {
			missing = append(missing, name)
			return nil
		}
		deps, err := t.needs(name)
		if err != nil {
			return err
		}
		// modules.dep lists the nearest dependency first: load from the far end.
		for i := len(deps) - 1; i >= 0; i-- {
			if err := visit(deps[i]); err != nil {
				return err
			}
		}
		files = append(files, Module{Name: name, Path: path})
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, nil, err
		}
	}
	return files, missing, nil
}

// A signed module ends with a signature, twelve bytes about it, of which the last
// four are its length, and this mark (the kernel's scripts/sign-file.c).
const (
	signatureMark = "~Module signature appended~\n"
	signatureInfo = 12
)

// Unsigned takes a module's signature away. The kernel would check it, which is
// dear where instructions are translated, and as a stock kernel it would load the
// module whatever the outcome.
func Unsigned(module []byte) []byte {
	rest, ok := bytes.CutSuffix(module, []byte(signatureMark))
	if !ok || len(rest) < signatureInfo {
		return module
	}
	size := int(binary.BigEndian.Uint32(rest[len(rest)-4:]))
	if size > len(rest)-signatureInfo {
		return module
	}
	return rest[:len(rest)-signatureInfo-size]
}
