package lease

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
)

// hostVerb has the test's own program be a host with one seat: see runHost.
const hostVerb = "lease-host"

// hostLine is what it says.
type hostLine struct {
	State *State     `json:"state,omitempty"`
	Began event.Mono `json:"began,omitempty"` // it ran the VM from then on
	Ended event.Mono `json:"ended,omitempty"` // and until then
	Error string     `json:"error,omitempty"`
}

// runHost is a host whose user does what it reads, a word a line, and looks every
// millisecond whether it has the VM. Its word in the file says until when, as a
// guest would see it.
func runHost(name, configFile, wordFile, have string) error {
	b, err := os.ReadFile(configFile)
	if err != nil {
		return err
	}
	var c Config
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	word, err := mapWord(wordFile)
	if err != nil {
		return err
	}
	p, _ := c.Party(name)
	n, err := Listen(name, c.Members[p].Addr)
	if err != nil {
		return err
	}
	var turn sync.Mutex
	out := json.NewEncoder(os.Stdout)
	say := func(l hostLine) {
		turn.Lock()
		defer turn.Unlock()
		_ = out.Encode(l)
	}
	s, err := n.Join(c, map[string]Have{"disk": Disk, "machine": Machine, "nothing": Nothing, "image": Image}[have], func(st State) { say(hostLine{State: &st}) })
	if err != nil {
		return err
	}
	s.Follow(word)
	var stood atomic.Int64
	do := map[string]func(){
		"alone": s.Alone, "protect": s.Protect, "synced": s.Synced,
		"image": func() { s.Has(Image) }, "nothing": func() { s.Has(Nothing) },
		"hand": func() {
			stood.Store(int64(event.Now())) // as the user of a seat has the VM stand first
			if err := s.Hand(); err != nil {
				say(hostLine{Error: err.Error()})
			}
		},
	}
	go watch(s, &stood, say)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		do[lines.Text()]()
	}
	return n.Close()
}

// watch tells of the times in which the seat had the VM.
func watch(s *Seat, stood *atomic.Int64, say func(hostLine)) {
	var until event.Mono // of the last time that it had it; 0: it had not
	for range time.Tick(time.Millisecond) {
		u, now := s.Until(), event.Now()
		switch active := now < u; {
		case active && until == 0:
			say(hostLine{Began: now})
			until = u
		case active:
			until = u
		case until != 0:
			if at := event.Mono(stood.Swap(0)); at != 0 {
				now = at
			}
			say(hostLine{Ended: min(until, now)})
			until = 0
		}
	}
}

func mapWord(path string) (*atomic.Int64, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(4096); err != nil {
		return nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*atomic.Int64)(unsafe.Pointer(&b[0])), nil
}

// span is a time in which a host had the VM.
type span struct {
	host       string
	began, end event.Mono
}

// site is one of the three, in a namespace of its own, on a switch in another.
type site struct {
	lab  *lab
	p    Party
	name string

	cmd   *exec.Cmd
	stdin io.WriteCloser
	done  chan struct{}
	word  *atomic.Int64

	mu    sync.Mutex
	state State
	past  []string
	began event.Mono
	spans []span
}

type lab struct {
	t       *testing.T
	dir     string
	config  Config
	hosts   [2]*site
	witness *Process
}

// namespaces starts processes in them.
type namespaces struct{}

func (namespaces) Start(node string, cmd *exec.Cmd) error {
	return enter(node, cmd.Start)
}

func enter(node string, fn func() error) error {
	n, err := ns.GetNS("/run/netns/" + node)
	if err != nil {
		return err
	}
	defer n.Close()
	return n.Do(func(ns.NetNS) error { return fn() })
}

// in runs a command in a namespace.
func (l *lab) in(node string, words string) {
	l.t.Helper()
	err := enter(node, func() error {
		f := strings.Fields(words)
		if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		l.t.Fatalf("%s: %s: %v", node, words, err)
	}
}

func newLab(t *testing.T) *lab {
	kerneltest.Need(t)
	l := &lab{t: t, dir: t.TempDir(), config: Config{VM: "shop", Instance: rand.Uint64()}}
	names := []string{"texas-h1", "illinois-h1", "oregon-h1"}
	for _, name := range append(names, "lan") {
		if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
			t.Fatalf("ip netns add %s: %v: %s", name, err, out)
		}
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	}
	l.in("lan", "ip link add br0 type bridge mcast_snooping 0")
	l.in("lan", "ip link set br0 up")
	for i, name := range names {
		addr := netip.AddrFrom4([4]byte{10, 251, 0, byte(i + 1)})
		l.config.Members[i] = Member{name, netip.AddrPortFrom(addr, Port)}
		l.in("lan", fmt.Sprintf("ip link add p%d type veth peer name eth0 netns %s", i, name))
		l.in("lan", fmt.Sprintf("ip link set p%d master br0 up", i))
		l.in(name, "ip addr add "+addr.String()+"/24 dev eth0")
		l.in(name, "ip link set eth0 up")
	}
	b, err := json.Marshal(l.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.dir, "config"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	l.startWitness()
	for p, have := range []string{"disk", "nothing"} {
		s := &site{lab: l, p: Party(p), name: names[p]}
		if s.word, err = mapWord(filepath.Join(l.dir, s.name)); err != nil {
			t.Fatal(err)
		}
		l.hosts[p] = s
		s.start(have)
	}
	t.Cleanup(func() {
		_ = l.witness.Kill()
		for _, s := range l.hosts {
			s.kill()
		}
	})
	return l
}

func (l *lab) startWitness() {
	l.t.Helper()
	m := l.config.Members[Third]
	var err error
	if l.witness, err = Start(l.t.Context(), namespaces{}, m.Name, m.Addr, filepath.Join(l.dir, "records"), func(event.Event) {}); err != nil {
		l.t.Fatal(err)
	}
	if _, err := l.witness.Serve(l.t.Context(), l.config, l.config.Members[HostA].Name); err != nil {
		l.t.Fatal(err)
	}
}

func (s *site) start(have string) {
	t := s.lab.t
	t.Helper()
	s.cmd = exec.Command("/proc/self/exe", hostVerb, s.name, filepath.Join(s.lab.dir, "config"), filepath.Join(s.lab.dir, s.name), have)
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	s.state = State{}
	if err := (namespaces{}).Start(s.name, s.cmd); err != nil {
		t.Fatal(err)
	}
	s.done = make(chan struct{})
	go s.read(out)
}

func (s *site) read(out io.Reader) {
	defer close(s.done)
	lines := json.NewDecoder(out)
	for {
		var l hostLine
		if lines.Decode(&l) != nil {
			break
		}
		s.mu.Lock()
		switch {
		case l.State != nil:
			s.state = *l.State
			s.past = append(s.past, fmt.Sprintf("%d: %s %v gen %d held by %d in sync %v", event.Now()/1e6, s.name, l.State.Role, l.State.Record.Gen, l.State.Record.Holder, l.State.Record.InSync))
		case l.Began != 0:
			s.began = l.Began
		case l.Ended != 0:
			s.spans = append(s.spans, span{s.name, s.began, l.Ended})
			s.began = 0
		default:
			s.lab.t.Errorf("%s: %s", s.name, l.Error)
		}
		s.mu.Unlock()
	}
	_ = s.cmd.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.began != 0 { // killed; a guest would have run as long as its word let it
		s.spans = append(s.spans, span{s.name, s.began, event.Mono(s.word.Load())})
		s.began = 0
	}
	s.state = State{}
}

func (s *site) kill() {
	_ = s.cmd.Process.Kill()
	<-s.done
}

func (s *site) say(word string) {
	if _, err := io.WriteString(s.stdin, word+"\n"); err != nil {
		s.lab.t.Fatalf("%s: %s: %v", s.name, word, err)
	}
}

func (s *site) is() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// until waits for a host to be as is said.
func (s *site) until(what string, so func(State) bool) time.Duration {
	s.lab.t.Helper()
	began := time.Now()
	for deadline := began.Add(10 * time.Second); !so(s.is()); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.lab.t.Fatalf("%s: not within 10 s, at %d:\n%s", what, event.Now()/1e6, s.lab.history())
		}
	}
	return time.Since(began)
}

// history is what became of both hosts lately.
func (l *lab) history() string {
	var all []string
	for _, s := range l.hosts {
		s.mu.Lock()
		all = append(all, s.past[max(0, len(s.past)-12):]...)
		s.mu.Unlock()
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func unprotectedState(s State) bool { return s.Unprotected }

// whole has both hosts and the witness in health, and gives who runs the VM.
func (l *lab) whole() (active, standby *site) {
	l.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for active == nil {
		for _, s := range l.hosts {
			if s.is().Role == Active {
				active = s
			}
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("no host has the VM: %+v, %+v", l.hosts[0].is(), l.hosts[1].is())
		}
		time.Sleep(2 * time.Millisecond)
	}
	standby = l.hosts[active.p.Other()]
	standby.until("the standby knows who runs the VM", func(s State) bool { return s.Record.Holder == active.p && s.Role != Lapsed && s.Role != "" })
	standby.say("nothing")
	active.until("the witness knows that it has nothing", func(s State) bool { return !s.Record.InSync })
	active.say("protect")
	standby.say("image")
	active.say("synced")
	active.until("the standby is in sync", func(s State) bool { return s.Record.InSync })
	standby.until("the standby knows it", func(s State) bool { return s.Record.InSync && s.Role == Standby })
	time.Sleep(350 * time.Millisecond) // what a predecessor of the standby may have promised ends
	return active, standby
}

// cut is a way to part a member from the others, and to put it back.
func (l *lab) cut(p Party) (undo func()) {
	port := fmt.Sprintf("ip link set p%d ", p)
	l.in("lan", port+"down")
	return func() { l.in("lan", port+"up") }
}

// silence is cut with both carriers kept.
func (l *lab) silence(p Party) (undo func()) {
	deaf, mute := l.deafen(p), l.mute(p)
	return func() { deaf(); mute() }
}

// deafen loses what goes to a member, mute what comes from it.
func (l *lab) deafen(p Party) (undo func()) {
	l.in("lan", fmt.Sprintf("tc qdisc add dev p%d root netem loss 100%%", p))
	return func() { l.in("lan", fmt.Sprintf("tc qdisc del dev p%d root", p)) }
}

func (l *lab) mute(p Party) (undo func()) {
	l.in(l.config.Members[p].Name, "tc qdisc add dev eth0 root netem loss 100%")
	return func() { l.in(l.config.Members[p].Name, "tc qdisc del dev eth0 root") }
}

// part loses what two members send each other.
func (l *lab) part(p, q Party) (undo func()) {
	do := func(what string) {
		l.in(l.config.Members[p].Name, "ip route "+what+" blackhole "+l.config.Members[q].Addr.Addr().String())
		l.in(l.config.Members[q].Name, "ip route "+what+" blackhole "+l.config.Members[p].Addr.Addr().String())
	}
	do("add")
	return func() { do("del") }
}

func (l *lab) stop(pid int) (undo func()) {
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		l.t.Fatal(err)
	}
	return func() { _ = unix.Kill(pid, unix.SIGCONT) }
}

// TestNeverTwoActiveOnANetwork breaks each of three sites in each way, with real
// processes and sockets, and looks all the time that no two hosts have the VM.
func TestNeverTwoActiveOnANetwork(t *testing.T) {
	l := newLab(t)
	together, stop := make(chan string, 1), make(chan struct{})
	go func() { together <- l.guard(stop) }()
	takesOver := func(active, standby *site) {
		t.Logf("took over %v later", standby.until("the standby takes over", role(Active)).Round(time.Millisecond))
	}
	staysAlone := func(active, standby *site) {
		active.say("alone")
		active.until("it runs unprotected", unprotectedState)
	}
	stays := func(active, standby *site) { time.Sleep(900 * time.Millisecond) }
	restart := func(s *site) func() { return func() { s.start("nothing") } }
	for _, f := range []struct {
		name string
		do   func(active, standby *site) (undo func())
		then func(active, standby *site)
		runs string // who does in the end
	}{
		{"the active's link is down", func(a, _ *site) func() { return l.cut(a.p) }, takesOver, "standby"},
		{"the active is silent", func(a, _ *site) func() { return l.silence(a.p) }, takesOver, "standby"},
		{"the active is heard and hears nothing", func(a, _ *site) func() { return l.deafen(a.p) }, takesOver, "standby"},
		{"the active hears and is not heard", func(a, _ *site) func() { return l.mute(a.p) }, takesOver, "standby"},
		{"the standby's link is down", func(_, s *site) func() { return l.cut(s.p) }, staysAlone, "active"},
		{"the standby is heard and hears nothing", func(_, s *site) func() { return l.deafen(s.p) }, staysAlone, "active"},
		{"the witness's link is down", func(*site, *site) func() { return l.cut(Third) }, stays, "active"},
		{"the hosts are apart, and the witness hears both", func(a, s *site) func() { return l.part(a.p, s.p) }, staysAlone, "active"},
		{"the active and the witness are apart", func(a, _ *site) func() { return l.part(a.p, Third) }, stays, "active"},
		{"the active is killed", func(a, _ *site) func() { a.kill(); return restart(a) }, takesOver, "standby"},
		{"the standby is killed", func(_, s *site) func() { s.kill(); return restart(s) }, staysAlone, "active"},
		{"the witness is killed", func(*site, *site) func() {
			if err := l.witness.Kill(); err != nil {
				t.Fatal(err)
			}
			return l.startWitness
		}, stays, "active"},
		{"the active is stopped", func(a, _ *site) func() { return l.stop(a.cmd.Process.Pid) }, takesOver, "standby"},
		{"the standby is stopped", func(_, s *site) func() { return l.stop(s.cmd.Process.Pid) }, staysAlone, "active"},
		{"the witness is stopped", func(*site, *site) func() { return l.stop(l.witness.Pid()) }, stays, "active"},
		{"a planned switch-over", func(a, _ *site) func() { a.say("hand"); return func() {} }, takesOver, "standby"},
		{"a switch-over to a standby that the witness does not hear", func(a, s *site) func() {
			undo := l.part(s.p, Third)
			a.say("hand")
			a.until("the active stops", func(s State) bool { return s.Role == Handing || s.Role == Lapsed })
			return undo
		}, func(a, _ *site) { a.until("it takes it back", role(Active)) }, "active"},
	} {
		if !t.Run(f.name, func(t *testing.T) {
			l.t = t
			active, standby := l.whole()
			undo := f.do(active, standby)
			f.then(active, standby)
			undo()
			runs, not := active, standby
			if f.runs == "standby" {
				runs, not = standby, active
			}
			not.until("who does not run the VM knows it", func(s State) bool {
				return s.Record.Holder == runs.p && s.Role != Lapsed && s.Role != Active && s.Role != ""
			})
			if st := runs.is(); st.Role != Active {
				t.Errorf("%s should run the VM, and is %+v", runs.name, st)
			}
		}) {
			break
		}
	}
	l.t = t
	close(stop)
	if at := <-together; at != "" {
		t.Error(at)
	}
	l.disjoint()
}

// guard looks at what guests would see: no two words may say that the VM runs.
func (l *lab) guard(stop <-chan struct{}) string {
	a, b := l.hosts[0].word, l.hosts[1].word
	for {
		select {
		case <-stop:
			return ""
		case <-time.After(500 * time.Microsecond):
		}
		// The first word is read again: the VM may have changed hands in between.
		u, v := a.Load(), b.Load()
		if now := int64(event.Now()); u > now && v > now && a.Load() == u {
			return fmt.Sprintf("at %d both hosts had the VM: until %d and %d", now, u, v)
		}
	}
}

// disjoint checks the times in which hosts had the VM.
func (l *lab) disjoint() {
	var all []span
	for _, s := range l.hosts {
		s.kill()
		all = append(all, s.spans...)
	}
	slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.began, b.began) })
	least := time.Hour
	for i, s := range all[1:] {
		if was := all[i]; was.host != s.host {
			if gap := s.began.Sub(was.end); gap < 0 {
				l.t.Errorf("%s had the VM until %d, and %s from %d on: %v before", was.host, was.end, s.host, s.began, -gap)
			} else {
				least = min(least, gap)
			}
		}
	}
	l.t.Logf("the VM was had %d times; from host to host, %v passed at least", len(all), least)
}
