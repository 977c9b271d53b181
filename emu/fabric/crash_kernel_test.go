package fabric_test

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

// victimLab is what the child process builds and tears down until it is shot.
const victimLab = "victim"

func victimState() fabric.State {
	s := star(30, topo.Impairment{Rate: 1e8, Delay: topo.Duration(time.Millisecond)})
	for name, l := range s.Links { // what takes several messages to make
		l.A.Block = 1
		l.A.Classes = []fabric.Class{{Label: 40001, Depth: 1, Rate: 1e7}, {Label: 40003, Depth: 2, Rate: 2e7}}
		s.Links[name] = l
	}
	return s
}

// TestVictim is the body of the child process; by itself it does nothing.
func TestVictim(t *testing.T) {
	if os.Getenv("VPCLAB_TEST_VICTIM") == "" {
		t.Skip("only as a child of the tests that kill it")
	}
	fmt.Println("ready")
	for {
		f, err := fabric.New(victimLab, nil)
		require.NoError(t, err)
		_, err = f.Apply(context.Background(), victimState())
		require.NoError(t, err)
		require.NoError(t, f.Start("h1", exec.Command("sleep", "1000")))
		less := victimState()
		delete(less.Links, "h2:eth0--hub1:p2")
		delete(less.Nodes, "h2")
		_, err = f.Apply(context.Background(), less)
		require.NoError(t, err)
		require.NoError(t, f.Destroy(context.Background()))
	}
}

// shoot runs the victim and kills it without warning after it lived for a
// while.
func shoot(t *testing.T, after time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestVictim$", "-test.v")
	cmd.Env = append(os.Environ(), "VPCLAB_TEST_VICTIM=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "ready") {
	}
	timer := time.NewTimer(after)
	defer timer.Stop()
	<-timer.C // the moment of the shot, not a wait for anything
	require.NoError(t, cmd.Process.Kill())
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
	}
	require.Empty(t, said, "the victim failed by itself")
	var status *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &status)
	require.Equal(t, syscall.SIGKILL, status.Sys().(syscall.WaitStatus).Signal())
}

// remains lists what of any lab is on this kernel.
func remains(t *testing.T) (out []string) {
	t.Helper()
	for _, pattern := range []string{"/run/netns/vpclab-*", "/run/vpclab/*"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		out = append(out, found...)
	}
	links, err := netlink.LinkList()
	require.NoError(t, err)
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Alias, "vpclab:") || l.Type() == "veth" {
			out = append(out, "link "+l.Attrs().Name)
		}
	}
	procs, err := exec.Command("ps", "-eo", "args").Output()
	require.NoError(t, err)
	if strings.Contains(string(procs), "sleep 1000") {
		out = append(out, "process sleep 1000")
	}
	return out
}

// TestKilledAnywhereLeavesNothing kills the owner at random moments of its
// life: gc then finds everything, and nothing that is not the lab's.
func TestKilledAnywhereLeavesNothing(t *testing.T) {
	kerneltest.Need(t)
	foreign := []string{"vpclab-foreign", "vpclab-victim-h3x", "mine"}
	for _, name := range foreign {
		require.NoError(t, exec.Command("ip", "netns", "add", name).Run())
		defer func() { require.NoError(t, exec.Command("ip", "netns", "del", name).Run(), "gc took %s", name) }()
	}
	before := remains(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for round := range 12 {
		after := time.Duration(rnd.Int64N(int64(600 * time.Millisecond)))
		shoot(t, after)
		left := len(remains(t)) - len(before)
		_, err := fabric.GC(context.Background(), nil)
		require.NoError(t, err)
		require.Equal(t, before, remains(t), "round %d, killed after %v", round, after)
		t.Logf("killed after %v: %d objects left, collected", after.Round(time.Millisecond), left)
	}
}

// TestSuccessorGoesOn kills the owner and lets the next one converge from
// whatever is there.
func TestSuccessorGoesOn(t *testing.T) {
	kerneltest.Need(t)
	before := remains(t)
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	for range 4 {
		shoot(t, time.Duration(rnd.Int64N(int64(500*time.Millisecond))))
		f, err := fabric.New(victimLab, nil)
		require.NoError(t, err)
		want := victimState()
		_, err = f.Apply(context.Background(), want)
		require.NoError(t, err)
		ch, err := f.Plan(want)
		require.NoError(t, err)
		require.Empty(t, ch.String())
		for _, h := range []string{"h1", "h2", "h30"} {
			out, err := ping(t, f, h, "10.0.255.254", 1)
			require.NoError(t, err, "%s: %s", h, out)
		}
		require.NoError(t, f.Destroy(context.Background()))
		require.Equal(t, before, remains(t))
	}
}

// TestCloseLeavesTheLab hands a lab from one owner to the next.
func TestCloseLeavesTheLab(t *testing.T) {
	kerneltest.Need(t)
	want := fabric.Compile(plan(t, fmt.Sprintf(twoHosts, "handed", ", delay: 1234567ns, rate: 123456kbit, loss: 0.013%")))
	f, err := fabric.New("handed", nil)
	require.NoError(t, err)
	_, err = f.Apply(context.Background(), want)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	labs, err := fabric.List()
	require.NoError(t, err)
	require.Contains(t, labs, fabric.LabInfo{Lab: "handed", Nodes: 3})

	g := start(t, "handed")
	require.Equal(t, want, g.Current(), "the record does not keep the State")
	// The successor may trust the record, but has to learn first what numbers
	// the devices have.
	changed := want
	changed.Links = maps.Clone(want.Links)
	l := changed.Links["a:eth1--r:eth1"]
	l.A.Egress.Delay *= 2
	changed.Links["a:eth1--r:eth1"] = l
	ch, err := g.Apply(context.Background(), changed, fabric.Trust)
	require.NoError(t, err)
	require.Len(t, ch, 1)
	ch, err = g.Plan(changed)
	require.NoError(t, err)
	require.Empty(t, ch.String())
}

func TestDestroyKillsWhatRunsInside(t *testing.T) {
	kerneltest.Need(t)
	f, err := fabric.New("inside", nil)
	require.NoError(t, err)
	_, err = f.Apply(context.Background(), star(2, topo.Impairment{}))
	require.NoError(t, err)
	sleep := exec.Command("sleep", "1000")
	require.NoError(t, f.Start("h1", sleep))
	require.NoError(t, f.Destroy(context.Background()))
	var status *exec.ExitError
	require.ErrorAs(t, sleep.Wait(), &status)
	require.Empty(t, remains(t))
}

// TestForeignNamespaceIsLeftAlone puts somebody's namespace where a node
// should go.
func TestForeignNamespaceIsLeftAlone(t *testing.T) {
	kerneltest.Need(t)
	name := "vpclab-clash-h2"
	require.NoError(t, exec.Command("ip", "netns", "add", name).Run())
	var st, after unix.Stat_t
	require.NoError(t, unix.Stat("/run/netns/"+name, &st))
	f, err := fabric.New("clash", nil)
	require.NoError(t, err)
	_, err = f.Apply(context.Background(), star(3, topo.Impairment{}))
	require.ErrorContains(t, err, name)
	require.NoError(t, f.Destroy(context.Background()))
	require.NoError(t, unix.Stat("/run/netns/"+name, &after))
	require.Equal(t, st.Ino, after.Ino)
	require.NoError(t, exec.Command("ip", "netns", "del", name).Run())
}
