package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/event"
)

// The control socket is a stream with one JSON object a line, and the bytes of a
// state behind the line that says how many they are. A client sends requests, each with a number of its own from 1, and the guest answers each
// once, in order. Any number of clients may be connected: when a VM moves, the
// agents of both hosts are.

// maxLine bounds a line, maxState a state: some kilobytes, and with connections
// what is under way on each.
const (
	maxLine  = 64 << 10
	maxState = 256 << 20
)

// op is what a request asks for.
type op string

const (
	opPause      op = "pause"
	opCheckpoint op = "checkpoint"
	opResume     op = "resume"
	opPrepare    op = "prepare"
	opAdopt      op = "adopt"
	opBoot       op = "boot"
	opResend     op = "resend"
	opMirror     op = "mirror"
	opStatus     op = "status"
	opVerify     op = "verify"
)

// request goes from an agent to the guest.
type request struct {
	ID uint64 `json:"id"`
	Op op     `json:"op"`
	// On, where it is not empty, is the folder of memory and disk that the
	// client believes the guest to run on. A guest that has moved on is not
	// steered by the host that it left.
	On          string `json:"on,omitempty"`
	Folder      string `json:"folder,omitempty"`      // prepare, adopt, boot
	Missing     string `json:"missing,omitempty"`     // prepare, adopt
	NetNS       string `json:"netns,omitempty"`       // prepare, adopt
	Incoming    bool   `json:"incoming,omitempty"`    // prepare
	Boot        bool   `json:"boot,omitempty"`        // prepare
	State       int    `json:"state_bytes,omitempty"` // adopt: how many follow the line
	Path        string `json:"path,omitempty"`        // mirror
	Connections bool   `json:"connections,omitempty"` // checkpoint
	// WithinMS is how long the client waits; 0: as long as it takes.
	WithinMS int64 `json:"within_ms,omitempty"`

	state []byte // those that follow the line
}

// reply goes back.
type reply struct {
	ID     uint64     `json:"id"`
	Error  string     `json:"error,omitempty"`
	At     event.Mono `json:"at_ns,omitempty"`
	State  int        `json:"state_bytes,omitempty"` // how many follow the line
	Status *Status    `json:"status,omitempty"`
	// Verification is the answer to verify.
	Verification *Verification `json:"verification,omitempty"`

	state []byte
}

// decodeRequest reads one line and checks it. Where only the content is wrong
// the request's number is there, so that it can be answered.
func decodeRequest(line []byte) (request, error) {
	var r request
	if err := child.Decode(line, &r); err != nil {
		return request{}, fmt.Errorf("control request: %w", err)
	}
	if r.ID == 0 {
		return request{}, errors.New("control request without a number")
	}
	if r.State < 0 || r.State > maxState {
		return request{}, fmt.Errorf("control request with a state of %d bytes", r.State) // nobody knows where the next one begins
	}
	if r.WithinMS < 0 {
		return r, fmt.Errorf("control request %s: within %d ms", r.Op, r.WithinMS)
	}
	moves := r.Op == opPrepare || r.Op == opAdopt
	switch {
	case (moves || r.Op == opBoot) && r.Folder == "":
		return r, fmt.Errorf("control request %s without a folder", r.Op)
	case !moves && (r.Op != opBoot && r.Folder != "" || r.Missing != ""):
		return r, fmt.Errorf("control request %s with a folder", r.Op)
	case !moves && r.NetNS != "":
		return r, fmt.Errorf("control request %s with a namespace", r.Op)
	case r.Op != opPrepare && r.Boot:
		return r, fmt.Errorf("control request %s for a boot", r.Op)
	case r.Op != opPrepare && r.Incoming:
		return r, fmt.Errorf("control request %s for a stream of QEMU's", r.Op)
	case r.Op != opAdopt && r.State != 0:
		return r, fmt.Errorf("control request %s with a state", r.Op)
	case r.Op != opCheckpoint && r.Connections:
		return r, fmt.Errorf("control request %s with connections", r.Op)
	case r.Op != opMirror && r.Path != "":
		return r, fmt.Errorf("control request %s with a path", r.Op)
	}
	switch r.Op {
	case opPause, opCheckpoint, opResume, opPrepare, opAdopt, opBoot, opResend, opMirror, opStatus, opVerify:
		return r, nil
	}
	return r, fmt.Errorf("control request %q: want pause, checkpoint, resume, prepare, adopt, boot, resend, mirror, status or verify", r.Op)
}

// decodeReply reads one line and checks it.
func decodeReply(line []byte) (reply, error) {
	var r reply
	if err := child.Decode(line, &r); err != nil {
		return reply{}, fmt.Errorf("control reply: %w", err)
	}
	if r.ID == 0 {
		return reply{}, errors.New("control reply without a number")
	}
	if r.State < 0 || r.State > maxState {
		return reply{}, fmt.Errorf("control reply with a state of %d bytes", r.State)
	}
	return r, nil
}

// encodeLine is the message and a newline.
func encodeLine(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	if len(b) >= maxLine {
		return nil, fmt.Errorf("control message of %d bytes: want less than %d", len(b), maxLine)
	}
	return append(b, '\n'), nil
}

// send writes a line and the state behind it.
func send(to io.Writer, line, state []byte) error {
	all := net.Buffers{line, state}
	if len(state) == 0 {
		all = all[:1]
	}
	_, err := all.WriteTo(to)
	return err
}

// readState reads the bytes that follow a line.
func readState(r io.Reader, size int) ([]byte, error) {
	if size == 0 {
		return nil, nil
	}
	b := make([]byte, size)
	_, err := io.ReadFull(r, b)
	return b, err
}
