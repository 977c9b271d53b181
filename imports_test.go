// Package vpclab_test keeps the walls of the house where docs/architecture.md
// puts them.
package vpclab_test

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/vpclab/vpclab/"

// allowed says which rooms a room may import. A room is the first folder; the
// rooms inside emu are listed by themselves.
var allowed = map[string][]string{
	"topo":           {},
	"metrics":        {},
	"plots":          {"metrics"},
	"emu/clock":      {},
	"emu/event":      {"emu/clock"},
	"emu/warm":       {},
	"emu/watch":      {"emu/clock"},
	"emu/child":      {},
	"emu/fabric":     {"topo", "emu/event", "emu/warm"},
	"emu/mpls":       {"topo", "emu/event", "emu/fabric"},
	"emu/bgp":        {"topo", "emu/child", "emu/event", "emu/fabric", "emu/liveness", "emu/mpls"},
	"emu/frr":        {"topo", "emu/event", "emu/fabric", "emu/bgp"},
	"emu/liveness":   {"emu/event"},
	"emu/bfd":        {"emu/event"},
	"emu/repair":     {"topo", "emu/bfd", "emu/child", "emu/event", "emu/fabric", "emu/liveness", "emu/mpls"},
	"emu/fault":      {"topo", "emu/event", "emu/fabric"},
	"emu/lease":      {"emu/child", "emu/event"},
	"emu/plug":       {"emu/event", "emu/fabric"},
	"emu/tcp":        {"emu/event"},
	"emu/replicate":  {"emu/event", "emu/migrate", "emu/warm"},
	"emu/stock":      {"emu/clock"},
	"emu/kernel":     {"topo", "emu/event", "emu/stock"},
	"emu/traffic":    {"topo", "emu/event", "emu/fabric"},
	"emu/ask":        {},
	"emu/audit":      {"topo", "emu/ask", "emu/event", "emu/fabric", "emu/traffic"},
	"emu/unixsock":   {},
	"emu/guest":      {"emu/child", "emu/event", "emu/tcp", "emu/unixsock", "emu/warm"},
	"emu/qmp":        {"emu/event", "emu/unixsock"},
	"emu/vmm":        {"emu/child", "emu/event", "emu/fabric", "emu/guest", "emu/migrate", "emu/qmp", "emu/stock", "emu/unixsock"},
	"emu/migrate":    {"emu/event", "emu/warm"},
	"emu/wanopt":     {"emu/event", "emu/migrate", "emu/qmp", "emu/warm"},
	"emu/fidelity":   {"topo", "emu/ask", "emu/event", "emu/fabric", "emu/traffic", "emu/audit", "emu/lab", "metrics"},
	"emu/hypervisor": {"topo", "emu/child", "emu/event", "emu/fabric", "emu/guest", "emu/lease", "emu/migrate", "emu/plug", "emu/qmp", "emu/replicate", "emu/tcp", "emu/vmm", "emu/wanopt"},
	"emu/lab":        {"topo", "emu/event", "emu/fabric", "emu/mpls", "emu/bgp", "emu/frr", "emu/kernel", "emu/fault", "emu/guest", "emu/lease", "emu/migrate", "emu/repair", "emu/replicate", "emu/stock", "emu/vmm", "emu/wanopt", "emu/hypervisor"},
	"scenarios":      {"topo", "emu/ask", "emu/event", "emu/fabric", "emu/mpls", "emu/bgp", "emu/frr", "emu/traffic", "emu/audit", "emu/fault", "emu/guest", "emu/lease", "emu/migrate", "emu/repair", "emu/replicate", "emu/vmm", "emu/wanopt", "emu/watch", "emu/lab", "metrics", "plots"},
	"cmd":            {"topo", "emu/event", "emu/fabric", "emu/mpls", "emu/bgp", "emu/frr", "emu/kernel", "emu/traffic", "emu/audit", "emu/fidelity", "emu/fault", "emu/guest", "emu/lease", "emu/migrate", "emu/repair", "emu/replicate", "emu/hypervisor", "emu/lab", "emu/stock", "emu/vmm", "emu/wanopt", "emu/qmp", "emu/warm", "scenarios", "metrics", "plots"},
}

// room names the room a package of this module belongs to.
func room(pkg string) string {
	parts := strings.Split(strings.TrimPrefix(pkg, module), "/")
	if parts[0] == "emu" && len(parts) > 1 {
		return "emu/" + parts[1]
	}
	return parts[0]
}

func TestImportsRunOneWay(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		f := strings.Fields(line)
		if !strings.HasPrefix(f[0], module) {
			continue
		}
		from := room(f[0])
		seen[from] = true
		may, known := allowed[from]
		if !known {
			t.Errorf("%s: room %q is not in docs/architecture.md's picture; add it there and here", f[0], from)
			continue
		}
		for _, imp := range f[1:] {
			if to := room(imp); strings.HasPrefix(imp, module) && to != from && !contains(may, to) {
				t.Errorf("%s imports %s: %s may only import %v", f[0], imp, from, may)
			}
		}
	}
	for r := range allowed {
		if !seen[r] {
			t.Errorf("room %s is allowed but does not exist", r)
		}
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
