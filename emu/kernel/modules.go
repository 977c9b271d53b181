package kernel

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// needModules carry the lab itself: without one of them nothing can be built.
var needModules = []string{
	"ipv6",        // GoBGP listens on [::]; its addresses are kept off
	"mpls_router", // label switching
	"mpls_iptunnel",
	"mpls_gso",
	"veth", "bridge", "vrf",
	"sch_netem", "sch_hfsc", "sch_htb",
}

// wantModules take something away when missing: firewall baselines,
// pseudowires, policing, capture of sockets' state.
var wantModules = []string{
	"nf_tables", "nft_ct", "nft_limit", "nft_log",
	"sch_ingress", "cls_flower", "cls_matchall",
	"act_mpls", "act_vlan", "act_mirred", "act_skbedit",
	"dummy", "ifb", "sch_prio", "sch_plug", "sch_tbf", "sch_hfsc", "sch_fq", "tun", "inet_diag", "tcp_diag", "udp_diag",
}

// moduleArgs are given to modules when they are loaded. IPv6 stays without
// addresses in every namespace: neighbour discovery and duplicate address
// detection cost more than the rest of a namespace. The others would make
// devices that nobody asked for.
var moduleArgs = map[string]string{
	"ipv6":  "disable_ipv6=1",
	"dummy": "numdummies=0",
	"ifb":   "numifbs=0",
}

// moduleFile is one file to be loaded, after those it depends on.
type moduleFile struct {
	Name string `json:"name"`
	Path string `json:"path"`
	Args string `json:"args,omitempty"`
}

// moduleTree knows the modules of one kernel build.
type moduleTree struct {
	dir     string
	paths   map[string]string   // module name -> file
	deps    map[string][]string // module name -> names it needs, nearest first
	builtin map[string]bool
}

// readModules reads the module folder of a kernel (…/modules/<release>). It
// takes modules.dep where depmod has run, else the files' own .modinfo.
func readModules(dir string) (*moduleTree, error) {
	t := &moduleTree{dir: dir, paths: map[string]string{}, deps: map[string][]string{}, builtin: map[string]bool{}}
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

func (t *moduleTree) readBuiltin() {
	src, err := os.ReadFile(filepath.Join(t.dir, "modules.builtin"))
	if err != nil {
		return
	}
	for _, line := range strings.Fields(string(src)) {
		t.builtin[moduleName(line)] = true
	}
}

// readDep reads the text form of depmod's output: "a.ko: b.ko c.ko".
func (t *moduleTree) readDep() error {
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
func (t *moduleTree) readFiles() error {
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
func (t *moduleTree) needs(name string) ([]string, error) {
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

// order lists the files to load for the named modules, dependencies first,
// and the names for which there is neither a file nor built-in code.
func (t *moduleTree) order(names []string) (files []moduleFile, missing []string, err error) {
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
		files = append(files, moduleFile{Name: name, Path: path, Args: moduleArgs[name]})
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, nil, err
		}
	}
	return files, missing, nil
}
