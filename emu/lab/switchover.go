package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/hypervisor"
)

// syncedWithin bounds how long a switch-over waits for the standby to be in sync:
// it may just have come back.
const syncedWithin = 60 * time.Second

// SwitchedOver is what a planned switch-over was.
type SwitchedOver struct {
	VM        string     `json:"vm"`
	From      string     `json:"from"` // hosts
	To        string     `json:"to"`
	Asked     event.Mono `json:"asked_ns"`
	Activated event.Mono `json:"activated_ns"` // the VM took its first step there
}

// SwitchOver has a protected VM go on at its other seat, with nothing lost: it
// stands for a last checkpoint (or write), and its lease is handed over. It waits
// until the standby is in sync. When it fails the VM runs where it was.
func (l *Lab) SwitchOver(ctx context.Context, vm string) (*SwitchedOver, error) {
	out, err := l.switchOver(ctx, vm)
	if err != nil {
		return nil, fmt.Errorf("switch %s over: %w", vm, err)
	}
	return out, nil
}

func (l *Lab) switchOver(ctx context.Context, vm string) (*SwitchedOver, error) {
	if err := l.Synced(ctx, vm); err != nil {
		return nil, err
	}
	k, _ := l.pairs.of(vm)
	out := &SwitchedOver{VM: vm, From: k.pair.HostOf(k.active), To: k.pair.HostOf(k.pair.Other(k.active)), Asked: event.Now()}
	agent := l.hypers.running(out.From)
	if agent == nil {
		return nil, fmt.Errorf("the hypervisor agent of %s does not run", out.From)
	}
	l.observe(event.New(vm, "pair.switching", map[string]string{"from": out.From, "to": out.To}))
	if err := agent.SwitchOver(ctx, vm); err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeoutCause(ctx, activeWithin, fmt.Errorf("%s has the lease and does not run it after %v", out.To, activeWithin))
	defer cancel()
	if err := l.pairs.wait(wait, vm, func(now protected) bool { return now.gen > k.gen && now.active != k.active }); err != nil {
		return nil, err
	}
	now, _ := l.pairs.of(vm)
	out.Activated = now.since
	return out, nil
}

// Synced waits until the standby of a protected VM may take over.
func (l *Lab) Synced(ctx context.Context, vm string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, syncedWithin, fmt.Errorf("the standby of %s is not in sync after %v", vm, syncedWithin))
	defer cancel()
	return l.pairs.wait(ctx, vm, func(k protected) bool { return k.synced })
}

// PairStatus is a protected VM as its seats know it.
type PairStatus struct {
	VM      string     `json:"vm"`
	Mode    string     `json:"mode"`
	Active  string     `json:"active"` // seat; "": none yet
	Gen     uint64     `json:"gen"`    // of its lease
	Since   event.Mono `json:"since_ns"`
	Synced  bool       `json:"synced"` // the other may take over
	Witness string     `json:"witness"`
	Hosts   [2]string  `json:"hosts"`
	// Seats are the VM's own and its standby's; one is nil where its host's agent
	// does not run, and Errors then say so.
	Seats  [2]*hypervisor.SeatStatus `json:"seats"`
	Errors [2]string                 `json:"errors"`
}

// PairStatus asks both seats of a VM.
func (l *Lab) PairStatus(ctx context.Context, vm string) (*PairStatus, error) {
	k, ok := l.pairs.of(vm)
	if !ok {
		return nil, &NoSuchError{What: "protected VM", Name: vm, Have: l.pairs.names()}
	}
	s := &PairStatus{VM: vm, Mode: k.pair.Mode, Active: k.active, Gen: k.gen, Since: k.since, Synced: k.synced, Witness: k.pair.Witness, Hosts: k.pair.Hosts}
	for i, host := range k.pair.Hosts {
		agent := l.hypers.running(host)
		err := errors.New("the host's agent does not run")
		if agent != nil {
			var seat hypervisor.SeatStatus
			if seat, err = agent.SeatStatus(ctx, vm); err == nil {
				s.Seats[i] = &seat
			}
		}
		if err != nil {
			s.Errors[i] = err.Error()
		}
	}
	return s, nil
}

// PairStatuses are those of all protected VMs, in order of the plan.
func (l *Lab) PairStatuses(ctx context.Context) (all []*PairStatus, err error) {
	plan := l.Plan()
	if plan == nil {
		return nil, ErrNotBuilt
	}
	for _, pair := range plan.Pairs() {
		s, err := l.PairStatus(ctx, pair.VM)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// SwitchOverRequest asks for a switch-over.
type SwitchOverRequest struct {
	VM string `json:"vm"`
}

func (s *server) switchOver(w http.ResponseWriter, r *http.Request) {
	var req SwitchOverRequest
	if err := decode(w, r, &req); err != nil {
		fail(w, err)
		return
	}
	out, err := s.lab.SwitchOver(r.Context(), req.VM)
	if err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, out)
}

// SwitchOver has a protected VM go on at its other seat.
func (c *Client) SwitchOver(ctx context.Context, vm string) (*SwitchedOver, error) {
	res, err := c.do(ctx, http.MethodPost, "/v1/switchover", nil, SwitchOverRequest{VM: vm})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var out SwitchedOver
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
		return nil, fmt.Errorf("lab daemon: answer to a switch-over: %w", err)
	}
	return &out, nil
}
