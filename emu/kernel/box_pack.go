package kernel

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/stock"
)

// Where process 1 of a box finds things.
const (
	boxOrdersPath  = "/box/orders.json"
	boxModulesPath = "/lib/modules"
)

// boxOrders tell process 1 of a box what to do.
type boxOrders struct {
	Argv     []string       `json:"argv"`
	Env      []string       `json:"env"`
	Dir      string         `json:"dir"`
	Hostname string         `json:"hostname"`
	Modules  []stock.Module `json:"modules"`
	Post     bool           `json:"post"`              // the command sends letters
	Tick     int64          `json:"tick"`              // ns between signs of life
	Without  []string       `json:"without,omitempty"` // modules that this kernel's build does not have
}

// pack puts together what the box finds in its memory.
func (b *box) pack() (*stock.Initrd, error) {
	a := stock.NewInitrd()
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run", "/var", "/etc", "/root", "/bin", "/sbin", "/usr/sbin"} {
		a.Folder(dir, 0o755)
	}
	a.Folder("/tmp", 0o1777)
	a.Folder("/var/tmp", 0o1777)
	a.CharDevice("/dev/console", 0o600, 5, 1)
	a.CharDevice("/dev/null", 0o666, 1, 3)
	a.File("/etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	a.File("/etc/group", 0o644, []byte("root:x:0:\n"))
	a.File("/etc/hosts", 0o644, []byte("127.0.0.1 localhost\n"))
	a.Copy(BoxProgram, 0o755, b.cfg.Program)
	o := boxOrders{Argv: b.cfg.Argv, Env: b.cfg.Env, Dir: b.cfg.Dir, Hostname: b.cfg.Lab, Post: b.cfg.Letter != nil, Tick: int64(time.Second) / int64(b.cfg.Speed)}
	if o.Dir == "" {
		o.Dir = "/"
	}
	a.Folder(o.Dir, 0o755)
	modules, without, err := planImage(b.image, "crc32c_generic")
	if err != nil {
		return nil, err
	}
	o.Without = without
	for _, m := range modules {
		inside := boxModulesPath + "/" + m.Name + ".ko"
		data, err := os.ReadFile(m.Path)
		if err != nil {
			return nil, err
		}
		a.File(inside, 0o644, stock.Unsigned(data))
		o.Modules = append(o.Modules, stock.Module{Name: m.Name, Path: inside, Args: m.Args})
	}
	for _, f := range b.cfg.Files {
		if err := packFile(a, f); err != nil {
			return nil, err
		}
	}
	data, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	a.File(boxOrdersPath, 0o644, data)
	return a, nil
}

// packFile adds a file, or a folder with all that is in it.
func packFile(a *stock.Initrd, f BoxFile) error {
	if f.From == "" {
		perm := f.Perm
		if perm == 0 {
			perm = 0o644
		}
		a.File(f.Path, perm, f.Data)
		return nil
	}
	return filepath.WalkDir(f.From, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(f.From, path)
		if err != nil {
			return err
		}
		inside := filepath.Join(f.Path, rel)
		st, err := os.Stat(path) // what a link leads to
		switch {
		case err != nil:
			return err
		case st.IsDir():
			a.Folder(inside, uint32(st.Mode().Perm()))
		case st.Mode().IsRegular():
			a.Copy(inside, uint32(st.Mode().Perm()), path)
		default:
			return fmt.Errorf("%s is neither a file nor a folder", path)
		}
		return nil
	})
}

// Programs packs host programs for a box: each at its own path, with the
// interpreter and the shared libraries that it asks for. Names without a slash
// are looked for where the standard path leads; those that are not there are
// left out if optional.
func Programs(optional bool, names ...string) ([]BoxFile, error) {
	p := packer{seen: map[string]bool{}}
	for _, name := range names {
		path, err := findProgram(name)
		if err == nil {
			err = p.program(path)
		}
		if err != nil && !(optional && errors.Is(err, exec.ErrNotFound)) {
			return nil, fmt.Errorf("pack %s: %w", name, err)
		}
	}
	return p.files, nil
}

// findProgram looks for a program as a shell does, in sbin folders too.
func findProgram(name string) (string, error) {
	if strings.Contains(name, "/") {
		return filepath.Abs(name)
	}
	for _, dir := range strings.Split(insidePath(os.Getenv("PATH")), ":") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

// packer gathers files, each once.
type packer struct {
	files []BoxFile
	seen  map[string]bool
}

// add packs a file under its own path.
func (p *packer) add(path string) {
	if !p.seen[path] {
		p.seen[path] = true
		p.files = append(p.files, BoxFile{Path: path, From: path})
	}
}

// program packs a program or a library, and what it needs to be loaded.
func (p *packer) program(path string) error {
	if p.seen[path] {
		return nil
	}
	p.add(path)
	f, err := elf.Open(path)
	if err != nil {
		var format *elf.FormatError
		if errors.As(err, &format) { // a script: its interpreter is the caller's to name
			return nil
		}
		return err
	}
	defer f.Close()
	for _, s := range f.Progs {
		if s.Type != elf.PT_INTERP {
			continue
		}
		name := make([]byte, s.Filesz)
		if _, err := s.ReadAt(name, 0); err != nil {
			return err
		}
		p.add(strings.TrimRight(string(name), "\x00"))
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	paths, err := libraryFolders(f, path)
	if err != nil {
		return err
	}
	for _, name := range needed {
		library, err := findLibrary(name, paths)
		if err != nil {
			return fmt.Errorf("%s needs %w", path, err)
		}
		if err := p.program(library); err != nil {
			return err
		}
	}
	return nil
}

// libraryFolders are those that the dynamic loader looks into for what f needs.
func libraryFolders(f *elf.File, path string) ([]string, error) {
	var dirs []string
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		found, err := f.DynString(tag)
		if err != nil {
			return nil, err
		}
		for _, list := range found {
			for _, dir := range strings.Split(list, ":") {
				dirs = append(dirs, strings.NewReplacer("$ORIGIN", filepath.Dir(path), "${ORIGIN}", filepath.Dir(path)).Replace(dir))
			}
		}
	}
	return slices.Concat(dirs, []string{
		"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib",
	}), nil
}

func findLibrary(name string, dirs []string) (string, error) {
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", fmt.Errorf("the library %s, which is in none of %s", name, strings.Join(dirs, ", "))
}
