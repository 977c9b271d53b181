package frr_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/frr"
	"github.com/vpclab/vpclab/emu/mpls/vpntest"
	"github.com/vpclab/vpclab/emu/repair"
)

// Timers of these sessions.
const (
	bfdInterval   = 50 * time.Millisecond
	bfdMultiplier = 3
)

// line is pe1, which is ours, beside p1, behind which is pe2: both have FRR's
// bfdd.
const bfdLine = `
name: bfd
topology:
  backbone:
    pe: [pe1, pe2]
    p: [p1]
    links: [{between: [pe1, p1]}, {between: [p1, pe2]}]
`

// bfdPeer is a router with FRR's bfdd.
type bfdPeer struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	last  string
}

func startBFDD(t *testing.T, l *vpntest.Lab, node string) *bfdPeer {
	t.Helper()
	in, err := frr.Find()
	if err != nil {
		t.Skip(err)
	}
	p := &bfdPeer{t: t, lines: make(chan string, 1000)}
	p.cmd = exec.Command("/proc/self/exe", frr.BFDVerb, in.Root, filepath.Join("/run/vpclab-bfdd", node))
	p.cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	p.cmd.Stderr = os.Stderr
	p.in, err = p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = l.Fabric.Start(node, p.cmd)
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		p.in.Close()
		_ = p.cmd.Process.Kill() // all that is in its PID namespace ends with it
		_ = p.cmd.Wait()
	})
	p.expect("ready")
	return p
}

// expect waits for a line that begins with a word and has the others, and returns
// what comes after the first.
func (p *bfdPeer) expect(word string, others ...string) string {
	p.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case line, more := <-p.lines:
			if !more {
				p.t.Fatalf("bfdd ended before it said %q %q; last it said %q", word, others, p.last)
			}
			p.last = line
			first, rest, _ := strings.Cut(line, " ")
			if first == word && containsAll(rest, others) {
				return rest
			}
		case <-deadline:
			p.t.Fatalf("waited 30 s for %q %q; last bfdd said %q", word, others, p.last)
		}
	}
}

func containsAll(text string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

func (p *bfdPeer) tell(commands ...string) {
	p.t.Helper()
	fmt.Fprintln(p.in, strings.Join(commands, ";"))
	p.expect("done")
}

// moment is the time that a line begins with.
func (p *bfdPeer) moment(line string) event.Mono {
	p.t.Helper()
	first, _, _ := strings.Cut(line, " ")
	ns, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return event.Mono(ns)
}

// session is what bfdd knows of its only peer.
func (p *bfdPeer) session() (s struct {
	Status     string `json:"status"`
	Diagnostic string `json:"diagnostic"`
	RemoteDiag string `json:"remote-diagnostic"`
	Receive    int    `json:"receive-interval"`
	Transmit   int    `json:"transmit-interval"`
	TheirRx    int    `json:"remote-receive-interval"`
	TheirTx    int    `json:"remote-transmit-interval"`
	TheirMult  int    `json:"remote-detect-multiplier"`
}) {
	p.t.Helper()
	fmt.Fprintln(p.in, "show bfd peers json")
	text := p.expect("answer")
	var all []json.RawMessage
	err := json.Unmarshal([]byte(text), &all)
	if err == nil && len(all) != 1 {
		err = fmt.Errorf("%d peers", len(all))
	}
	if err == nil {
		err = json.Unmarshal(all[0], &s)
	}
	if err != nil {
		p.t.Fatalf("bfdd's peers: %v: %s", err, text)
	}
	return s
}

// TestBFDWithFRR has our BFD and FRR's bfdd watch each other, as neighbours and
// over a router between: sessions come up and agree on timers, each side notices
// in time that the other has died, and ours ends without alarm.
func TestBFDWithFRR(t *testing.T) {
	needFRR(t)
	plan := vpntest.Expand(t, bfdLine)
	l := vpntest.New(t, plan, nil)
	l.Converge(vpntest.State(plan))
	near := plan.LinksOf("pe1")[0]
	loop := map[string]string{}
	for _, n := range plan.Routers() {
		loop[n.Name] = n.Loopback.String()
	}
	local, remote := near.A, near.B
	if local.Node != "pe1" {
		local, remote = remote, local
	}
	pe1, _ := plan.Node("pe1")
	pe2, _ := plan.Node("pe2")
	timers := repair.Timers{Interval: bfdInterval, Multiplier: bfdMultiplier}
	link := repair.Link{Dev: local.Ifname, Local: local.Addr.Addr(), Peer: remote.Addr.Addr()}
	for name, c := range map[string]struct {
		node string
		ours repair.Config
		peer string // as bfdd names us
	}{
		"neighbours": {"p1", repair.Config{Node: "pe1", Links: []repair.Link{link}, BFD: timers},
			fmt.Sprintf("peer %v local-address %v interface %s", link.Local, link.Peer, remote.Ifname)},
		"multihop": {"pe2", repair.Config{Node: "pe1", MultihopBFD: timers, Multihop: []repair.Multihop{{Local: pe1.Loopback, Peer: pe2.Loopback}}},
			fmt.Sprintf("peer %v multihop local-address %v", pe1.Loopback, pe2.Loopback)},
	} {
		t.Run(name, func(t *testing.T) { withFRR(t, l, c.node, c.ours, c.peer) })
	}
}

func withFRR(t *testing.T, l *vpntest.Lab, node string, cfg repair.Config, us string) {
	theirs := startBFDD(t, l, node)
	events := make(chan event.Event, 1000)
	wait := func(kind string) event.Event {
		t.Helper()
		for deadline := time.After(30 * time.Second); ; {
			select {
			case e := <-events:
				if e.Kind == kind {
					return e
				}
			case <-deadline:
				t.Fatalf("waited 30 s for %s", kind)
			}
		}
	}
	begin := func() *repair.Process {
		t.Helper()
		p, err := repair.Start(limit(t), l.Fabric, "pe1", func(e event.Event) { events <- e })
		if err == nil {
			err = p.Configure(limit(t), cfg)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Kill() })
		return p
	}
	ours := begin()
	theirs.tell("bfd", us, fmt.Sprintf("detect-multiplier %d", bfdMultiplier), "receive-interval 50", "transmit-interval 50", "no shutdown")
	wait("bfd.up")
	theirs.expect("state", "-> up")
	agree(t, ours, theirs)

	// Ours is killed, and theirs misses it.
	began := event.Now()
	if err := ours.Kill(); err != nil {
		t.Fatal(err)
	}
	inTime(t, "bfdd misses ours", theirs.moment(theirs.expect("state", "-> down", "control-expired")).Sub(began))
	ours = begin()
	wait("bfd.up")
	theirs.expect("state", "-> up")
	agree(t, ours, theirs)

	// The timers change while both are up.
	slower := cfg
	for _, timers := range []*repair.Timers{&slower.BFD, &slower.MultihopBFD} {
		timers.Interval *= 2
	}
	if err := ours.Configure(limit(t), slower); err != nil {
		t.Fatal(err)
	}
	until(t, "bfdd to take over 100 ms", func() bool { s := theirs.session(); return s.TheirTx == 100 && s.TheirRx == 100 })
	if err := ours.Configure(limit(t), cfg); err != nil {
		t.Fatal(err)
	}
	until(t, "bfdd to take over 50 ms", func() bool { s := theirs.session(); return s.TheirTx == 50 && s.TheirRx == 50 })
	agree(t, ours, theirs)

	// Ours ends on purpose.
	if err := ours.Stop(limit(t)); err != nil {
		t.Fatal(err)
	}
	theirs.expect("state", "-> down")
	if s := theirs.session(); s.RemoteDiag != "administratively down" {
		t.Errorf("bfdd takes the end on purpose for %q", s.RemoteDiag)
	}
	ours = begin()
	wait("bfd.up")
	agree(t, ours, theirs) // until then packets come once a second

	// Theirs is killed, and ours misses it.
	fmt.Fprintln(theirs.in, "die")
	dead := theirs.moment(theirs.expect("dead"))
	down := wait("bfd.down")
	if down.Attr["diag"] != "control detection time expired" {
		t.Errorf("ours went down because of: %s", down.Attr["diag"])
	}
	inTime(t, "ours misses bfdd", down.T.Sub(dead))
	if err := ours.Stop(limit(t)); err != nil {
		t.Fatal(err)
	}
}

// agree holds that both ends have the same idea of the session.
func agree(t *testing.T, ours *repair.Process, theirs *bfdPeer) {
	t.Helper()
	until(t, "both ends to agree", func() bool {
		st, err := ours.Status(limit(t))
		if err != nil {
			t.Fatal(err)
		}
		s, x := st.Sessions[0], theirs.session()
		return s.State == "up" && s.Interval == bfdInterval && s.Detection == bfdMultiplier*bfdInterval &&
			x.Status == "up" && x.TheirRx == 50 && x.TheirTx == 50 && x.TheirMult == bfdMultiplier
	})
}

// until asks again until it is so.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for tick := time.NewTicker(20 * time.Millisecond); !so(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}

// inTime holds a detection against the detection time: it counts from the last
// packet, so it may be shorter by an interval, and longer by what the machine
// stalls, which is left as much as it takes.
func inTime(t *testing.T, what string, took time.Duration) {
	t.Helper()
	t.Logf("%s after %v", what, took)
	if want := bfdMultiplier * bfdInterval; took < want-bfdInterval-5*time.Millisecond || took > want+bfdInterval+100*time.Millisecond {
		t.Errorf("%s after %v; want %v, less an interval, or more by what the machine stalls", what, took, want)
	}
}
