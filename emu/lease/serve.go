package lease

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/event"
)

// Verb is the hidden verb of this program that Run is the body of. Its
// arguments are the host's name, the address and port to listen at, and the
// folder of its records.
const Verb = "witness"

// ControlConn is the control channel of a process that Start made.
func ControlConn() (net.Conn, error) { return child.Conn("witness") }

// order is a line from the lab, and answer the one that it gets back, in order;
// a line with an event may come in between. End of file means that the other is
// gone.
type (
	order struct {
		Op     string  `json:"op"`
		Config *Config `json:"config,omitempty"`
		First  string  `json:"first,omitempty"` // the host that a new VM begins at
		VM     string  `json:"vm,omitempty"`
	}
	answer struct {
		Record *Record      `json:"record,omitempty"`
		Error  string       `json:"error,omitempty"`
		Event  *event.Event `json:"event,omitempty"`
	}
)

const (
	opServe  = "serve"
	opForget = "forget"
	opPing   = "ping"
)

// maxLine bounds a line.
const maxLine = 64 << 10

// server is a witness's process: it serves many VMs.
type server struct {
	name, dir string
	conn      *net.UDPConn

	write   sync.Mutex // one line at a time
	control net.Conn
	events  chan event.Event // not sent yet

	mu  sync.Mutex
	vms map[string]*served
}

// served is one VM.
type served struct {
	config  Config
	term    time.Duration // see kept
	witness Witness
}

// Run is the body of the hidden verb `vpclab witness`: the witness at a host, in
// this process and this network namespace, told which VMs to serve over control.
// It returns nil when control ends, because then the lab is gone.
func Run(ctx context.Context, control net.Conn, host, at, dir string) error {
	addr, err := netip.ParseAddrPort(at)
	if err != nil {
		return fmt.Errorf("witness at %s: %w", host, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("witness at %s: %w", host, err)
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return fmt.Errorf("witness at %s: %w", host, err)
	}
	s := &server{name: host, dir: dir, conn: conn, control: control, events: make(chan event.Event, 256), vms: map[string]*served{}}
	var busy sync.WaitGroup
	done := make(chan struct{})
	busy.Go(s.listen)
	busy.Go(func() { s.report(done) })
	stop := context.AfterFunc(ctx, func() { control.Close() })
	err = s.obey()
	stop()
	control.Close()
	conn.Close()
	close(done)
	busy.Wait()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("witness at %s: %w", host, err)
	}
	return nil
}

// obey does what the lab says.
func (s *server) obey() error {
	lines := bufio.NewScanner(s.control)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var o order
		var a answer
		err := json.Unmarshal(lines.Bytes(), &o)
		if err == nil {
			a, err = s.do(o)
		}
		if err != nil {
			a = answer{Error: err.Error()}
		}
		if err := s.send(a); err != nil {
			return nil // the lab is gone
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("read control channel: %w", err)
	}
	return nil
}

func (s *server) send(a answer) error {
	line, err := json.Marshal(a)
	if err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	_, err = s.control.Write(append(line, '\n'))
	return err
}

func (s *server) do(o order) (answer, error) {
	switch o.Op {
	case opServe:
		if o.Config == nil {
			return answer{}, errors.New("serve: nothing is said of the VM")
		}
		r, err := s.serve(*o.Config, o.First)
		return answer{Record: &r}, err
	case opForget:
		return answer{}, s.forget(o.VM)
	case opPing:
		return answer{}, nil
	}
	return answer{}, fmt.Errorf("asked for %q: want %s, %s or %s", o.Op, opServe, opForget, opPing)
}

// serve begins with a VM, or goes on with what is kept of it.
func (s *server) serve(c Config, first string) (Record, error) {
	c, err := c.Checked()
	if err != nil {
		return Record{}, err
	}
	if c.Members[Third].Name != s.name {
		return Record{}, fmt.Errorf("serve VM %s: its witness is %s", c.VM, c.Members[Third].Name)
	}
	begin, known := c.Party(first)
	if !known || begin == Third {
		return Record{}, fmt.Errorf("serve VM %s: it begins at %q, which is not one of its hosts", c.VM, first)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.vms[c.VM]; v != nil && v.config == c {
		return v.witness.Record(), nil // said again
	}
	k, err := readKept(s.dir, c.VM)
	if err != nil {
		return Record{}, fmt.Errorf("serve VM %s: %w", c.VM, err)
	}
	v := &served{config: c, term: c.Term}
	r, again := Record{Gen: 1, Holder: begin}, false
	if k != nil {
		was, same, err := k.record(c)
		if err != nil {
			return Record{}, fmt.Errorf("serve VM %s: %w", c.VM, err)
		}
		if same {
			r, again, v.term = was, true, max(v.term, k.Term)
		}
	}
	if !again || v.term != k.Term {
		if err := keep(c, v.term, r).write(s.dir); err != nil {
			return Record{}, fmt.Errorf("serve VM %s: keep its record: %w", c.VM, err)
		}
	}
	v.witness = NewWitness(c, r, v.term, event.Now())
	s.vms[c.VM] = v
	return r, nil
}

// forget ends with a VM.
func (s *server) forget(vm string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.vms, vm)
	if err := os.Remove(recordPath(s.dir, vm)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget VM %s: %w", vm, err)
	}
	return nil
}

// listen answers what arrives, until its socket is closed.
func (s *server) listen() {
	b := make([]byte, maxDatagram+1)
	var out []byte
	for {
		size, from, err := s.conn.ReadFromUDPAddrPort(b)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(time.Millisecond) // the kernel is short of something
			continue
		}
		p, err := parse(b[:size])
		if err != nil {
			continue
		}
		if out = s.receive(p, from, out[:0]); len(out) > 0 {
			_, _ = s.conn.WriteToUDPAddrPort(out, from) // one that is lost is asked for again
		}
	}
}

// receive appends the answer to a packet, if it is what it says.
func (s *server) receive(p packet, from netip.AddrPort, out []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.vms[p.vm]
	asks := Answer.answers(p.Kind)
	if v == nil || !asks || v.config.Instance != p.instance || p.From == Third || !same(from, v.config.Members[p.From].Addr) {
		return out
	}
	p.To = Third
	was := v.witness
	m := v.witness.Receive(event.Now(), p.Message)
	if r := v.witness.Record(); r != was.Record() {
		if err := keep(v.config, v.term, r).write(s.dir); err != nil {
			// Nobody is told, so nothing has happened. Should it be on the disk all
			// the same, and be read when this process is started again, then that
			// is as if the question had come then.
			v.witness = was
			s.tell(v, "lease.unkept", map[string]string{"error": err.Error()})
			return out
		}
		s.tell(v, "lease.record", map[string]string{
			"why": p.Kind.String(), "by": v.config.Members[p.From].Name,
			"holder": v.config.Members[r.Holder].Name, "gen": fmt.Sprint(r.Gen), "in_sync": fmt.Sprint(r.InSync),
		})
	}
	return packet{p.vm, p.instance, m}.append(out)
}

// tell puts an event of a VM on the lab's time line. It holds nobody up: a lab
// that does not read misses some.
func (s *server) tell(v *served, kind string, attr map[string]string) {
	attr["witness"] = s.name
	select {
	case s.events <- event.New(v.config.VM, kind, attr):
	default:
	}
}

// report sends what was told.
func (s *server) report(done <-chan struct{}) {
	for {
		select {
		case e := <-s.events:
			_ = s.send(answer{Event: &e}) // that the lab is gone shows in obey
		case <-done:
			return
		}
	}
}
