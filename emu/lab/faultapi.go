package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/topo"
)

// FaultRequest asks for a fault.
type FaultRequest struct {
	Fault topo.Fault `json:"fault"`
	// Hold has the fault last for as long as the request does: it is undone when
	// its client goes away, however that ends.
	Hold bool `json:"hold,omitempty"`
}

// FaultView is a fault that is in force.
type FaultView struct {
	ID    int           `json:"id"`
	Fault topo.Fault    `json:"fault"`
	At    event.Mono    `json:"t_ns"`   // when it took effect
	Since time.Duration `json:"age_ns"` // how long ago that was
}

func viewOf(i *Injected) FaultView {
	return FaultView{ID: i.ID, Fault: i.Fault, At: i.At, Since: event.Now().Sub(i.At)}
}

// faultReply is one line of the answer to a fault that is held: the fault, and
// how it ended.
type faultReply struct {
	Fault *FaultView `json:"fault,omitempty"`
	Done  bool       `json:"done,omitempty"`
	Error string     `json:"error,omitempty"`
	Kind  string     `json:"kind,omitempty"`
}

func (s *server) listFaults(w http.ResponseWriter, _ *http.Request) {
	all := []FaultView{}
	for _, i := range s.lab.Faults() {
		all = append(all, viewOf(i))
	}
	writeJSON(w, all)
}

func (s *server) inject(w http.ResponseWriter, r *http.Request) {
	var req FaultRequest
	if err := decode(w, r, &req); err != nil {
		fail(w, err)
		return
	}
	i, err := s.lab.Inject(r.Context(), req.Fault)
	if err != nil {
		fail(w, err)
		return
	}
	view := viewOf(i)
	if !req.Hold {
		writeJSON(w, faultReply{Fault: &view})
		return
	}
	out := newLines(w)
	_ = out.write(faultReply{Fault: &view}) // a client that is gone already is noticed below
	select {
	case <-r.Context().Done():
	case <-i.Over():
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(r.Context()), undoDeadline, fmt.Errorf("waited %v for it to be undone", undoDeadline))
	defer cancel()
	last := faultReply{Done: true}
	if err := i.Undo(ctx); err != nil {
		s.lab.log.Error("fault not undone", "fault", i.Fault.String(), "error", err)
		last.Error = err.Error()
		last.Kind, _ = kindOf(err)
	}
	_ = out.write(last)
}

func (s *server) undoFaults(w http.ResponseWriter, r *http.Request) {
	// A client that goes away does not leave half of it.
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(r.Context()), undoDeadline, fmt.Errorf("waited %v for faults to be undone", undoDeadline))
	defer cancel()
	var err error
	if ids := r.URL.Query()["id"]; len(ids) > 0 {
		err = s.lab.undoSome(ctx, ids)
	} else {
		err = s.lab.UndoFaults(ctx)
	}
	if err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, struct{}{})
}

// undoSome undoes faults by their numbers, all or none of which must be there.
func (l *Lab) undoSome(ctx context.Context, ids []string) error {
	var some []*Injected
	for _, id := range ids {
		var found *Injected
		var have []string
		for _, i := range l.Faults() {
			if have = append(have, strconv.Itoa(i.ID)); have[len(have)-1] == id {
				found = i
			}
		}
		if found == nil {
			return &NoSuchError{What: "fault", Name: id, Have: have}
		}
		some = append(some, found)
	}
	for _, i := range some {
		if err := i.Undo(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Inject breaks something in the lab. It stays broken until Fault.For is over, or
// it is undone.
func (c *Client) Inject(ctx context.Context, f topo.Fault) (*FaultView, error) {
	res, err := c.do(ctx, http.MethodPost, "/v1/fault", nil, FaultRequest{Fault: f})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var reply faultReply
	if err := json.NewDecoder(res.Body).Decode(&reply); err != nil || reply.Fault == nil {
		return nil, fmt.Errorf("lab daemon: answer to a fault: %w", err)
	}
	return reply.Fault, nil
}

// HoldFault breaks something for as long as ctx lasts, or for Fault.For if that
// is over sooner. begun is told when it has happened. The lab undoes it however
// this client ends.
func (c *Client) HoldFault(ctx context.Context, f topo.Fault, begun func(FaultView)) error {
	res, err := c.do(ctx, http.MethodPost, "/v1/fault", nil, FaultRequest{Fault: f, Hold: true})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	dec := json.NewDecoder(res.Body)
	for {
		var reply faultReply
		if err := dec.Decode(&reply); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("lab daemon: it ended in the middle of a fault: %w", err)
		}
		switch {
		case reply.Error != "":
			return &RemoteError{Msg: reply.Error, Kind: reply.Kind, Status: res.StatusCode}
		case reply.Done:
			return nil
		case reply.Fault != nil && begun != nil:
			begun(*reply.Fault)
		}
	}
}

// Faults lists those that are in force.
func (c *Client) Faults(ctx context.Context) (all []FaultView, err error) {
	res, err := c.do(ctx, http.MethodGet, "/v1/faults", nil, nil)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&all); err != nil {
		return nil, fmt.Errorf("lab daemon: list of faults: %w", err)
	}
	return all, nil
}

// UndoFaults undoes the faults of those numbers; none: all.
func (c *Client) UndoFaults(ctx context.Context, ids ...string) error {
	res, err := c.do(ctx, http.MethodPost, "/v1/faults/undo", url.Values{"id": ids}, nil)
	if err != nil {
		return err
	}
	return res.Body.Close()
}
