package guest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/vpclab/vpclab/emu/event"
)

// The control socket is a stream with one JSON object a line. A client sends
// requests, each with a number of its own from 1, and the guest answers each
// once, in order. Any number of clients may be connected: when a VM moves, the
// agents of both hosts are.

// maxLine bounds a message. A state takes some kilobytes.
const maxLine = 1 << 20

// op is what a request asks for.
type op string

const (
	opPause   op = "pause"
	opResume  op = "resume"
	opPrepare op = "prepare"
	opAdopt   op = "adopt"
	opMirror  op = "mirror"
	opStatus  op = "status"
)

// request goes from an agent to the guest.
type request struct {
	ID uint64 `json:"id"`
	Op op     `json:"op"`
	// On, where it is not empty, is the folder of memory and disk that the
	// client believes the guest to run on. A guest that has moved on is not
	// steered by the host that it left.
	On      string `json:"on,omitempty"`
	Folder  string `json:"folder,omitempty"`  // prepare, adopt
	Missing string `json:"missing,omitempty"` // prepare, adopt
	State   []byte `json:"state,omitempty"`   // adopt
	Path    string `json:"path,omitempty"`    // mirror
	// WithinMS is how long the client waits; 0: as long as it takes.
	WithinMS int64 `json:"within_ms,omitempty"`
}

// reply goes back.
type reply struct {
	ID     uint64     `json:"id"`
	Error  string     `json:"error,omitempty"`
	At     event.Mono `json:"at_ns,omitempty"`
	State  []byte     `json:"state,omitempty"`
	Status *Status    `json:"status,omitempty"`
}

// decodeRequest reads one line and checks it. Where only the content is wrong
// the request's number is there, so that it can be answered.
func decodeRequest(line []byte) (request, error) {
	var r request
	if err := decodeStrict(line, &r); err != nil {
		return request{}, fmt.Errorf("control request: %w", err)
	}
	if r.ID == 0 {
		return request{}, errors.New("control request without a number")
	}
	if r.WithinMS < 0 {
		return r, fmt.Errorf("control request %s: within %d ms", r.Op, r.WithinMS)
	}
	moves := r.Op == opPrepare || r.Op == opAdopt
	switch {
	case moves && r.Folder == "":
		return r, fmt.Errorf("control request %s without a folder", r.Op)
	case !moves && (r.Folder != "" || r.Missing != ""):
		return r, fmt.Errorf("control request %s with a folder", r.Op)
	case r.Op != opAdopt && len(r.State) > 0:
		return r, fmt.Errorf("control request %s with a state", r.Op)
	case r.Op != opMirror && r.Path != "":
		return r, fmt.Errorf("control request %s with a path", r.Op)
	}
	switch r.Op {
	case opPause, opResume, opPrepare, opAdopt, opMirror, opStatus:
		return r, nil
	}
	return r, fmt.Errorf("control request %q: want pause, resume, prepare, adopt, mirror or status", r.Op)
}

// decodeReply reads one line and checks it.
func decodeReply(line []byte) (reply, error) {
	var r reply
	if err := decodeStrict(line, &r); err != nil {
		return reply{}, fmt.Errorf("control reply: %w", err)
	}
	if r.ID == 0 {
		return reply{}, errors.New("control reply without a number")
	}
	return r, nil
}

// decodeStrict refuses unknown keys and anything after the object.
func decodeStrict(line []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one object on the line")
	}
	return nil
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
