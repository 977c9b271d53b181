package repair

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/bfd"
	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric/direct"
)

// The control channel is a stream socket with one JSON object a line. The lab
// sends requests, each with a number of its own from 1; the process answers each
// once with that number, and sends events with none.

// maxLine bounds a message: 16 MiB hold some 30 000 protections.
const maxLine = 16 << 20

// op is what a request asks for.
type op string

const (
	opConfigure op = "configure" // take over a Config
	opStatus    op = "status"    // what is known
	opStop      op = "stop"      // say farewell, put routes back, exit
)

// request goes from the lab to the process.
type request struct {
	ID     uint64  `json:"id"`
	Op     op      `json:"op"`
	Config *Config `json:"config,omitempty"`
}

// reply goes back: the answer to request ID, or an event.
type reply struct {
	ID     uint64       `json:"id,omitempty"`
	Error  string       `json:"error,omitempty"`
	Status *Status      `json:"status,omitempty"`
	Event  *event.Event `json:"event,omitempty"`
}

// Status is what a router's process knows.
type Status struct {
	Links    []LinkStatus `json:"links"`
	Sessions []Session    `json:"sessions"`
	Switched int          `json:"switched"`  // routes in whose place the prepared ones are
	Protect  int          `json:"protected"` // routes for which there are some
}

// LinkStatus is a link as its router sees it.
type LinkStatus struct {
	Dev     string     `json:"dev"`
	Peer    netip.Addr `json:"peer"`
	Alive   bool       `json:"alive"`
	Carrier bool       `json:"carrier"`
}

// Session is a BFD session for people.
type Session struct {
	Dev       string        `json:"dev,omitempty"` // "": multihop
	Peer      netip.Addr    `json:"peer"`
	State     string        `json:"state"`
	Remote    string        `json:"remote"`
	Diag      string        `json:"diag,omitempty"`
	For       time.Duration `json:"for_ns"` // since it last changed
	Interval  time.Duration `json:"interval_ns"`
	Detection time.Duration `json:"detection_ns"`
	Sent      uint64        `json:"sent"`
	Received  uint64        `json:"received"`
	Downs     int           `json:"downs"` // how often it went down by itself
}

func sessionOf(i bfd.Info, now event.Mono) Session {
	s := Session{
		Dev: i.Dev, Peer: i.Peer.Remote, State: i.State.String(), Remote: i.Remote.String(), For: now.Sub(i.Since),
		Interval: i.Interval, Detection: i.Detection, Sent: i.Sent, Received: i.Received, Downs: i.Downs,
	}
	if i.Diag != bfd.NoDiag {
		s.Diag = i.Diag.String()
	}
	return s
}

// decodeRequest reads one line and checks it.
func decodeRequest(line []byte) (request, error) {
	var r request
	if err := child.Decode(line, &r); err != nil {
		return request{}, fmt.Errorf("control request: %w", err)
	}
	switch {
	case r.ID == 0:
		return r, errors.New("control request without a number")
	case r.Op == opConfigure && r.Config == nil:
		return r, errors.New("control request configure without a config")
	case r.Op == opConfigure:
		return r, r.Config.Validate()
	case r.Op != opStatus && r.Op != opStop:
		return r, fmt.Errorf("control request %q: want configure, status or stop", r.Op)
	case r.Config != nil:
		return r, fmt.Errorf("control request %s with a config", r.Op)
	}
	return r, nil
}

// decodeReply reads one line and checks it.
func decodeReply(line []byte) (reply, error) {
	var r reply
	if err := child.Decode(line, &r); err != nil {
		return reply{}, fmt.Errorf("control reply: %w", err)
	}
	if (r.ID == 0) == (r.Event == nil) {
		return reply{}, errors.New("control reply: want either a request's number or an event")
	}
	return r, nil
}

// Validate says what is wrong with a Config.
func (c *Config) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("config of repair process %s: %s", c.Node, fmt.Sprintf(format, args...))
	}
	if c.Node == "" {
		return errors.New("config of a repair process without a node")
	}
	for _, t := range []Timers{c.BFD, c.MultihopBFD} {
		if t.Interval < 0 || t.Interval > 0 && (t.Multiplier < 1 || t.Multiplier > 255) {
			return bad("timers %v × %d: want a multiplier from 1 to 255", t.Interval, t.Multiplier)
		}
	}
	for _, l := range c.Links {
		if l.Dev == "" || !l.Local.Is4() || !l.Peer.Is4() {
			return bad("link %q from %v to %v: want an interface and two IPv4 addresses", l.Dev, l.Local, l.Peer)
		}
	}
	for _, m := range c.Multihop {
		if !m.Local.Is4() || !m.Peer.Is4() {
			return bad("session from %v to %v: want two IPv4 addresses", m.Local, m.Peer)
		}
	}
	for _, p := range c.Protect {
		label, ip := p.MPLS != nil && p.MPLSBy != nil, p.IP != nil && p.IPBy != nil
		switch {
		case label == ip || (p.MPLS != nil) != (p.MPLSBy != nil) || (p.IP != nil) != (p.IPBy != nil):
			return bad("a protection of %q: want a label's two entries or two routes", p.Dev)
		case label && p.MPLS.In != p.MPLSBy.In:
			return bad("label %d is to be protected by an entry for label %d", p.MPLS.In, p.MPLSBy.In)
		case ip && slotOf(*p.IP) != slotOf(*p.IPBy):
			return bad("route %v is to be protected by route %v of another table or metric", p.IP.Dst, p.IPBy.Dst)
		}
	}
	return nil
}

// channel is the process's end of the control channel. It never waits.
type channel struct {
	fd   int
	buf  [64 << 10]byte
	in   []byte // what is not a whole line yet
	out  []byte // what has not been taken yet
	gone bool   // the lab's end is closed
}

// take returns the whole lines that have come.
func (c *channel) take() (lines [][]byte, err error) {
	for {
		n, err := direct.Receive(c.fd, c.buf[:])
		switch {
		case err == unix.EAGAIN:
			return lines, nil
		case err != nil:
			return lines, fmt.Errorf("read control channel: %w", err)
		case n == 0:
			c.gone = true
			return lines, nil
		}
		c.in = append(c.in, c.buf[:n]...)
		for {
			line, rest, whole := bytes.Cut(c.in, []byte{'\n'})
			if !whole {
				break
			}
			lines = append(lines, line)
			c.in = rest
		}
		if len(c.in) > maxLine {
			return lines, fmt.Errorf("a control message has more than %d bytes", maxLine)
		}
	}
}

// put says something to the lab, now or when it reads again.
func (c *channel) put(r reply) {
	b, err := json.Marshal(r)
	if err != nil {
		panic("repair: " + err.Error()) // nothing in it that JSON lacks
	}
	c.out = append(append(c.out, b...), '\n')
	c.flush()
}

func (c *channel) flush() {
	for len(c.out) > 0 {
		n, err := direct.Send(c.fd, c.out)
		if err != nil {
			return // full, or gone, which shows when it is read
		}
		c.out = c.out[n:]
	}
}
