package lease

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/event"
)

// TestMain lets the test's own program be a witness, as vpclab is, or a host.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || os.Args[1] != Verb && os.Args[1] != hostVerb {
		os.Exit(m.Run())
	}
	var err error
	if args := os.Args[2:]; os.Args[1] == hostVerb {
		err = runHost(args[0], args[1], args[2], args[3])
	} else {
		err = runWitness(args)
	}
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}

func runWitness(args []string) error {
	conn, err := ControlConn()
	if err != nil {
		return err
	}
	return Run(context.Background(), conn, args[0], args[1], args[2])
}

// here runs processes in the namespace of the test.
type here struct{}

func (here) Start(_ string, cmd *exec.Cmd) error { return cmd.Start() }

// three are two nodes and a witness process on addresses of the loopback device.
type three struct {
	t       *testing.T
	config  Config
	dir     string
	witness *Process
	nodes   [2]*Node
	seats   [2]*Seat

	mu     sync.Mutex
	states [2][]State
	events []event.Event
}

func newThree(t *testing.T) *three {
	s := &three{t: t, dir: t.TempDir(), config: Config{
		VM: "shop", Instance: rand.Uint64(), Members: members("texas-h1", "illinois-h1", "oregon-h1"),
		Term: 400 * time.Millisecond, Renew: 40 * time.Millisecond, Silence: 100 * time.Millisecond,
	}}
	// Ports of this test's own: others may run beside it.
	for i := range s.config.Members {
		m := &s.config.Members[i]
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(m.Addr.Addr(), 0)))
		if err != nil {
			t.Fatal(err)
		}
		m.Addr = conn.LocalAddr().(*net.UDPAddr).AddrPort()
		conn.Close()
	}
	s.startWitness()
	s.startNode(HostA, Disk)
	s.startNode(HostB, Nothing)
	t.Cleanup(func() {
		s.witness.Kill()
		for _, n := range s.nodes {
			n.Close()
		}
	})
	return s
}

func (s *three) startWitness() {
	s.t.Helper()
	var err error
	m := s.config.Members[Third]
	s.witness, err = Start(s.t.Context(), here{}, m.Name, m.Addr, s.dir, func(e event.Event) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.events = append(s.events, e)
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.witness.Serve(s.t.Context(), s.config, "texas-h1"); err != nil {
		s.t.Fatal(err)
	}
}

func (s *three) startNode(p Party, have Have) {
	s.t.Helper()
	var err error
	m := s.config.Members[p]
	if s.nodes[p], err = Listen(m.Name, m.Addr); err != nil {
		s.t.Fatal(err)
	}
	if s.seats[p], err = s.nodes[p].Join(s.config, have, func(st State) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.states[p] = append(s.states[p], st)
	}); err != nil {
		s.t.Fatal(err)
	}
}

// until waits for a host to be as is said; there are ten terms and a slow machine's
// time for it.
func (s *three) until(what string, p Party, so func(State) bool) {
	s.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !so(s.seats[p].State()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: not within 5 s: A %+v, B %+v", what, s.seats[0].State(), s.seats[1].State())
		}
		if s.seats[0].Active() && s.seats[1].Active() {
			s.t.Fatal("both run the VM")
		}
	}
}

func role(r Role) func(State) bool { return func(s State) bool { return s.Role == r } }

func (s *three) pair() {
	s.t.Helper()
	s.until("A begins", HostA, role(Active))
	s.seats[HostB].Has(Image)
	s.seats[HostA].Synced()
	s.until("B is in sync", HostA, func(s State) bool { return s.Record.InSync })
	s.until("B watches", HostB, role(Standby))
}

func TestTakeOverOnANetwork(t *testing.T) {
	s := newThree(t)
	s.pair()
	// A's process dies: its socket is gone, and nobody says so.
	s.nodes[HostA].Close()
	died := event.Now()
	s.until("B takes over", HostB, role(Active))
	t.Logf("B took over %v after A's end, at a term of %v", event.Now().Sub(died), s.config.Term)
	s.seats[HostB].Alone()
	s.until("B runs unprotected", HostB, func(s State) bool { return s.Unprotected })
	s.startNode(HostA, Nothing)
	s.until("A learns who has it", HostA, func(s State) bool { return s.Record.Holder == HostB })
	s.seats[HostB].Protect()
	s.seats[HostA].Has(Image)
	s.seats[HostB].Synced()
	s.until("A is in sync", HostB, func(s State) bool { return s.Record.InSync })
	time.Sleep(s.config.guard()) // what a predecessor of A's may have promised ends: nothing else tells
	if err := s.seats[HostB].Hand(); err != nil {
		t.Fatal(err)
	}
	handed := event.Now()
	s.until("A has it again", HostA, role(Active))
	t.Logf("handed over in %v", event.Now().Sub(handed))
	s.until("B's user knows", HostB, func(State) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		told := s.states[HostB]
		return told[len(told)-1].Role == Fenced
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	var roles []string
	for _, st := range s.states[HostB] {
		if n := len(roles); n == 0 || roles[n-1] != string(st.Role) {
			roles = append(roles, string(st.Role))
		}
	}
	if got := strings.Join(roles, " "); !strings.HasSuffix(got, "standby taking active handing fenced") {
		t.Errorf("B was told of the roles %s", got)
	}
	why := map[string]int{}
	for _, e := range s.events {
		why[e.Kind+" "+e.Attr["why"]]++
	}
	if why["lease.record take"] != 2 || why["lease.record sync"] != 2 || why["lease.record claim"] != 1 {
		t.Errorf("the witness told of %v", why)
	}
}

// TestWitnessIsKilled: the record is what it was, and who runs does not notice.
func TestWitnessIsKilled(t *testing.T) {
	s := newThree(t)
	s.pair()
	was, err := s.witness.Serve(t.Context(), s.config, "texas-h1")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.witness.Kill(); err != nil {
		t.Fatal(err)
	}
	s.startWitness()
	if is, err := s.witness.Serve(t.Context(), s.config, "texas-h1"); err != nil || is != was {
		t.Errorf("it has %+v, %v: want %+v", is, err, was)
	}
	s.mu.Lock()
	for _, st := range s.states[HostA] {
		if st.Role == Lapsed {
			t.Error("A stopped, though B promised")
		}
	}
	s.mu.Unlock()
	// Another instance knows nothing of this one.
	other := s.config
	other.Instance++
	if r, err := s.witness.Serve(t.Context(), other, "illinois-h1"); err != nil || r != (Record{Gen: 1, Holder: HostB}) {
		t.Errorf("of another instance it has %+v, %v", r, err)
	}
	if err := s.witness.Forget(t.Context(), "shop"); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(s.dir + "/*"); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v, %v", left, err)
	}
}

// TestStoppedWitnessGrantsNothingOld: what waited at a stopped witness counts from
// when it goes on. That a stopped host stops believing is in the test in a lab
// kernel.
func TestStoppedWitnessGrantsNothingOld(t *testing.T) {
	s := newThree(t)
	s.pair()
	if err := unix.Kill(s.witness.Pid(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.nodes[HostA].Close() // its last questions are waiting at the witness
	time.Sleep(2 * s.config.Term)
	if s.seats[HostB].Active() {
		t.Error("B took over without a witness")
	}
	if err := unix.Kill(s.witness.Pid(), unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.until("B takes over", HostB, role(Active))
}

func TestSeatIgnoresWhatIsNotForIt(t *testing.T) {
	s := newThree(t)
	s.pair()
	liar, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer liar.Close()
	took := Message{Kind: Answer, Re: Renew, From: Third, Record: Record{Gen: 99, Holder: HostB}}
	for name, b := range map[string][]byte{
		"from another address": packet{"shop", s.config.Instance, took}.append(nil),
		"nothing":              {},
		"noise":                []byte("GET / HTTP/1.1\r\n\r\n, and so on, as long as a packet of ours is"),
	} {
		if _, err := liar.WriteToUDPAddrPort(b, s.config.Members[HostA].Addr); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	time.Sleep(s.config.Renew)
	if st := s.seats[HostA].State(); st.Role != Active || st.Record.Gen > 50 {
		t.Errorf("A believed it: %+v", st)
	}
}

func TestWitnessProcessSaysWhatIsWrong(t *testing.T) {
	s := newThree(t)
	wrong := s.config
	wrong.Members[Third].Name = "utah-h1"
	for name, try := range map[string]func() error{
		"serve VM shop: its witness is utah-h1":         func() error { _, err := s.witness.Serve(t.Context(), wrong, "texas-h1"); return err },
		`it begins at "utah-h1"`:                        func() error { _, err := s.witness.Serve(t.Context(), s.config, "utah-h1"); return err },
		"want a name of 1 to 63":                        func() error { _, err := s.witness.Serve(t.Context(), Config{}, "utah-h1"); return err },
		`asked for "dance": want serve, forget or ping`: func() error { _, err := s.witness.ask(t.Context(), order{Op: "dance"}); return err },
	} {
		if err := try(); err == nil || !strings.Contains(err.Error(), name) || !strings.HasPrefix(err.Error(), "witness at oregon-h1: ") {
			t.Errorf("%v: want %q", err, name)
		}
	}
	ours, theirs, err := child.Channel("witness")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	if err := Run(t.Context(), ours, "oregon-h1", "nowhere", s.dir); err == nil {
		t.Error("a witness listens nowhere")
	}
}
