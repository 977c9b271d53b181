package bgp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/event"
)

// The control channel is a stream socket with one JSON object a line. The
// parent sends requests, each with a number of its own from 1; the speaker
// answers each once with that number, and sends events with none. End of file
// means that the other process is gone.

// maxLine bounds a message: 8 MiB hold the configuration of some 50 000
// circuits.
const maxLine = 8 << 20

// op is what a request asks for.
type op string

const (
	opConfigure op = "configure" // converge to Config
	opRIB       op = "rib"       // list the RIB
	opReset     op = "reset"     // end the session with Neighbor, or all of them, and open it again
	opStop      op = "stop"      // close sessions, remove routes, exit
)

// request goes from the parent to the speaker.
type request struct {
	ID     uint64  `json:"id"`
	Op     op      `json:"op"`
	Config *Config `json:"config,omitempty"`
	// Neighbor is whose session is reset; zero: all.
	Neighbor netip.Addr `json:"neighbor,omitzero"`
}

// reply goes from the speaker to the parent: the answer to request ID, or an
// event.
type reply struct {
	ID    uint64       `json:"id,omitempty"`
	Error string       `json:"error,omitempty"`
	RIB   []RouteInfo  `json:"rib,omitempty"`
	Event *event.Event `json:"event,omitempty"`
}

// decodeRequest reads one line and checks it.
func decodeRequest(line []byte) (request, error) {
	var r request
	if err := child.Decode(line, &r); err != nil {
		return request{}, fmt.Errorf("control request: %w", err)
	}
	if r.ID == 0 {
		return r, errors.New("control request without a number")
	}
	if r.Neighbor.IsValid() && r.Op != opReset {
		return r, fmt.Errorf("control request %s with a neighbor", r.Op)
	}
	switch r.Op {
	case opConfigure:
		if r.Config == nil {
			return r, errors.New("control request configure without a config")
		}
		if err := r.Config.Validate(); err != nil {
			return r, err
		}
	case opRIB, opReset, opStop:
		if r.Config != nil {
			return r, fmt.Errorf("control request %s with a config", r.Op)
		}
	default:
		return r, fmt.Errorf("control request %q: want configure, rib, reset or stop", r.Op)
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

// appendLine appends the message and a newline.
func appendLine(b []byte, v any) ([]byte, error) {
	j, err := json.Marshal(v)
	if err != nil {
		return b, fmt.Errorf("control message: %w", err)
	}
	if len(j) >= maxLine {
		return b, fmt.Errorf("control message of %d bytes: want less than %d", len(j), maxLine)
	}
	return append(append(b, j...), '\n'), nil
}

// ControlConn is the control channel of a process that Start made.
func ControlConn() (net.Conn, error) { return child.Conn("speaker") }
