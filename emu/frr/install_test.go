package frr

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpclab/vpclab/topo"
)

// unpacked makes what looks like an unpacked package.
func unpacked(t *testing.T, root string, programs ...string) {
	t.Helper()
	dir := filepath.Join(root, "usr/lib/frr")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		if err := os.WriteFile(filepath.Join(dir, p), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFind(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	root := filepath.Join(cache, "some")
	t.Setenv("VPCLAB_FRR", root)
	if _, err := Find(); !IsMissing(err) || !strings.Contains(err.Error(), root) || !strings.Contains(err.Error(), "./run.sh frr") {
		t.Errorf("an empty VPCLAB_FRR gave %v", err)
	}
	unpacked(t, root, zebra, bgpd)
	if _, err := Find(); !IsMissing(err) {
		t.Errorf("half a package gave %v", err)
	}
	unpacked(t, root, daemons...)
	in, err := Find()
	if err != nil || in.Root != root || in.Daemons != filepath.Join(root, "usr/lib/frr") {
		t.Errorf("got %+v, %v", in, err)
	}
	if at("/") != nil {
		t.Log("the system has FRR: the cache is not looked at")
		return
	}
	t.Setenv("VPCLAB_FRR", "")
	if _, err := Find(); !IsMissing(err) {
		t.Errorf("an empty cache gave %v", err)
	}
	unpacked(t, filepath.Join(cacheDir(), "8.1"), daemons...)
	newest := filepath.Join(cacheDir(), "8.4")
	unpacked(t, newest, daemons...)
	if err := os.Chtimes(newest, time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if in, err := Find(); err != nil || in.Root != newest {
		t.Errorf("of two in the cache: %+v, %v", in, err)
	}
}

func TestLibrariesOfAnUnpackedPackage(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"usr/lib/x86_64-linux-gnu/frr", "lib/x86_64-linux-gnu"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	env := (&Install{Root: root}).env()
	if len(env) != 1 || !strings.Contains(env[0], root+"/usr/lib/x86_64-linux-gnu/frr:") || !strings.Contains(env[0], root+"/lib/x86_64-linux-gnu") {
		t.Errorf("got %v", env)
	}
	if env := (&Install{Root: "/"}).env(); env != nil {
		t.Errorf("an installed package gets %v", env)
	}
}

func TestCheck(t *testing.T) {
	t.Setenv("VPCLAB_FRR", t.TempDir())
	plan := planOf(t)
	if err := Check(plan); err != nil {
		t.Errorf("a plan without FRR: %v", err)
	}
	all := plan.WithRouting(topo.RoutingFRR)
	if err := Check(all); !IsMissing(err) {
		t.Errorf("a plan with FRR where there is none: %v", err)
	}
	all.Reservations = []topo.ReservationPlan{{Name: "shop"}}
	if err := Check(all); err == nil || IsMissing(err) || !strings.Contains(err.Error(), "reservation shop") {
		t.Errorf("a reservation over LDP's labels: %v", err)
	}
	vpls := plan.WithRouting(topo.RoutingFRR, "pe1")
	vpls.VPCs = append([]topo.VPCPlan{}, vpls.VPCs...)
	vpls.VPCs[0].VSIs = []topo.VSI{{PE: "pe1"}}
	if err := Check(vpls); err == nil || IsMissing(err) || !strings.Contains(err.Error(), "VPLS") {
		t.Errorf("a VPLS at an FRR PE: %v", err)
	}
}
