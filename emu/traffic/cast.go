package traffic

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vpclab/vpclab/topo"
)

// CastKind is what a Cast is made of.
type CastKind int

const (
	// CastFrame is a frame of an EtherType that nobody knows (EtherType).
	CastFrame CastKind = iota
	// CastGroup is an IPv4 packet to a multicast group that nobody has
	// joined, with a time to live that would let routers pass it on.
	CastGroup
	// CastARP is an ARP request (RFC 826).
	CastARP
	// CastND is an IPv6 neighbour solicitation (RFC 4861).
	CastND
)

func (k CastKind) String() string {
	return [...]string{"frame", "IPv4 multicast", "ARP request", "IPv6 neighbour solicitation"}[k]
}

// castGroup is a group of a scope that a provider does not carry: the
// administratively scoped ones of an organization (RFC 2365).
var castGroup = netip.AddrFrom4([4]byte{239, 192, 70, 77})

// Cast is one frame that a machine sends into its LAN.
type Cast struct {
	Kind CastKind
	From int // index of the sender's port
	// Source is the sender's MAC; zero: the port's own. With another one the
	// port stands for a bridge with some station behind it.
	Source topo.MAC
	To     topo.MAC // CastFrame: whom it is for; zero: all
	// Owner is the index of the port whose address is asked for: of CastARP
	// its IPv4 address, of CastND its link-local one.
	Owner int
}

// CastConfig says what to send and who is to receive it.
type CastConfig struct {
	Ports []LANPort
	Casts []Cast
	// Due says whether a port is to receive a cast. What arrives elsewhere is
	// counted too.
	Due func(c Cast, port int) bool
	// Answers says whether the owner of an address that is asked for has it
	// and is to answer; nil: all have. It is due if the question is.
	Answers func(c Cast) bool
	// Deadline is how long what is due is waited for after the last frame;
	// default 2 s. Nothing is sent twice.
	Deadline time.Duration
	// Grace is how long what is not due is waited for; it must be more than
	// the longest way takes. Default 40 ms.
	Grace time.Duration
}

// CastResult is a Cast and what became of it.
type CastResult struct {
	Cast
	// Arrived is how often it came, by port; more than once, or at all at its
	// sender, is a loop or a second way.
	Arrived []int
	// Answers are the MACs that said they have the address asked for.
	Answers []topo.MAC
}

// AnsweredBy reports whether this machine answered and nobody else.
func (r CastResult) AnsweredBy(mac topo.MAC) bool {
	return len(r.Answers) == 1 && r.Answers[0] == mac
}

// castRun is a Cast of frames under way.
type castRun struct {
	e       *Ether
	cfg     CastConfig
	ports   map[int]int // station -> port
	first   uint32      // number of the first cast
	results []CastResult
	asked   map[castQuestion][]int // casts that ask the same
	due     int                    // arrivals and answers that have still to come
}

// castQuestion is whose address is asked for by whom.
type castQuestion struct {
	from int
	addr netip.Addr
}

// Cast sends frames, each once and in the order given, and notes at which
// ports each arrives, how often, and who answers. What is due and does not
// come is in the result and is no error.
func (e *Ether) Cast(ctx context.Context, cfg CastConfig) ([]CastResult, error) {
	if cfg.Deadline == 0 {
		cfg.Deadline = 2 * time.Second
	}
	if cfg.Grace == 0 {
		cfg.Grace = 40 * time.Millisecond
	}
	if cfg.Answers == nil {
		cfg.Answers = func(Cast) bool { return true }
	}
	run := &castRun{e: e, cfg: cfg, ports: map[int]int{}, first: e.Numbers(len(cfg.Casts)), asked: map[castQuestion][]int{}}
	for i, p := range cfg.Ports {
		run.ports[p.Station] = i
	}
	if err := run.send(); err != nil {
		return nil, fmt.Errorf("cast: %w", err)
	}
	err := run.wait(ctx, cfg.Deadline, func() bool { return run.due <= 0 })
	if err == nil {
		err = run.wait(ctx, cfg.Grace, func() bool { return false })
	}
	if err != nil {
		return nil, fmt.Errorf("cast: %w", err)
	}
	return run.results, nil
}

// send sends all frames, reading between them what has come.
func (run *castRun) send() error {
	for i, c := range run.cfg.Casts {
		port := run.cfg.Ports[c.From]
		frame := run.frame(i, c, port)
		run.results = append(run.results, CastResult{Cast: c, Arrived: make([]int, len(run.cfg.Ports))})
		run.expect(i, c, port)
		refused, why, err := run.e.Send(port.Station, [][]byte{frame})
		if err == nil && refused > 0 {
			err = why
		}
		if err != nil {
			return fmt.Errorf("%v of %s: %w", c.Kind, port.Name, err)
		}
		if _, err := run.e.Read(0, run.take); err != nil {
			return err
		}
	}
	return nil
}

// expect books what is due of a cast.
func (run *castRun) expect(i int, c Cast, port LANPort) {
	for j := range run.cfg.Ports {
		if j != c.From && run.cfg.Due(c, j) {
			run.due++
		}
	}
	if ask, ok := run.ask(c); ok {
		q := castQuestion{port.Station, ask}
		run.asked[q] = append(run.asked[q], i)
		if run.answerDue(c) {
			run.due++
		}
	}
}

func (run *castRun) answerDue(c Cast) bool { return run.cfg.Due(c, c.Owner) && run.cfg.Answers(c) }

// ask is the address that a cast asks for.
func (run *castRun) ask(c Cast) (netip.Addr, bool) {
	switch c.Kind {
	case CastARP:
		return run.cfg.Ports[c.Owner].Addr, true
	case CastND:
		return LinkLocal(run.cfg.Ports[c.Owner].MAC), true
	}
	return netip.Addr{}, false
}

// frame is the bytes of cast i. The mark comes last: behind ARP and IPv6 it is
// padding, which a stack does not look at and every bridge carries.
func (run *castRun) frame(i int, c Cast, port LANPort) []byte {
	mac := port.MAC
	if !c.Source.IsZero() {
		mac = c.Source
	}
	var b []byte
	ask, _ := run.ask(c)
	switch c.Kind {
	case CastGroup:
		b = AppendEthernet(b, groupMAC(castGroup), mac, etherIPv4)
		b = AppendIPv4(b, Protocol, port.Addr, castGroup, MarkLen)
	case CastARP:
		b = appendARP(b, mac, port.Addr, ask)
	case CastND:
		b = appendSolicitation(b, mac, ask)
	default:
		to := c.To
		if to.IsZero() {
			to = broadcastMAC
		}
		b = AppendEthernet(b, to, mac, EtherType)
	}
	b = run.e.AppendMark(b, run.first+uint32(i))
	return append(b, make([]byte, max(0, minFrame-len(b)))...)
}

// wait reads until done, at most so long.
func (run *castRun) wait(ctx context.Context, most time.Duration, done func() bool) error {
	until := time.Now().Add(most)
	for !done() {
		n, err := run.e.Read(max(0, time.Until(until)), run.take)
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case n == 0 && !time.Now().Before(until):
			return nil
		}
	}
	return nil
}

// take books a frame that has come somewhere.
func (run *castRun) take(f *Frame) {
	j, ok := run.ports[f.Station]
	if !ok {
		return
	}
	if number, _, marked := run.e.Marked(f.Data); marked && number >= run.first && int(number-run.first) < len(run.results) {
		run.arrived(&run.results[number-run.first], j)
		return
	}
	addr, mac, told, ok := answer(f.Data)
	if !ok || told != run.cfg.Ports[j].MAC {
		return
	}
	for _, i := range run.asked[castQuestion{f.Station, addr}] {
		r := &run.results[i]
		if slices.Contains(r.Answers, mac) {
			continue
		}
		if r.Answers = append(r.Answers, mac); len(r.Answers) == 1 && run.answerDue(r.Cast) {
			run.due--
		}
	}
}

func (run *castRun) arrived(r *CastResult, port int) {
	r.Arrived[port]++
	if r.Arrived[port] == 1 && port != r.From && run.cfg.Due(r.Cast, port) {
		run.due--
	}
}
