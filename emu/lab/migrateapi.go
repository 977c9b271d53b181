package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/topo"
)

// MigrateReply is one line of the answer to POST /v1/migrate: events of the VMs
// while they move, then Done, in the order of the request, with Error where
// something went wrong.
type MigrateReply struct {
	Event *event.Event `json:"event,omitempty"`
	Done  []*Migration `json:"done,omitempty"`
	Error string       `json:"error,omitempty"`
	Kind  string       `json:"kind,omitempty"` // of the error
}

func (s *server) migrate(w http.ResponseWriter, r *http.Request) {
	var req MigrateGroupRequest
	if err := decode(w, r, &req); err != nil {
		fail(w, err)
		return
	}
	if err := s.lab.canMigrateAll(req); err != nil {
		fail(w, err) // before anything has begun
		return
	}
	moves := map[string]bool{}
	for _, m := range req.Migrations {
		moves[m.VM] = true
	}
	out := newLines(w)
	sub := s.lab.bus.subscribe(0)
	told := make(chan struct{})
	go func() {
		defer close(told)
		for e := range sub.C {
			if moves[e.Node] {
				_ = out.write(MigrateReply{Event: &e}) // a client that is gone ends the migrations by way of its context
			}
		}
	}()
	all, err := s.lab.MigrateAll(r.Context(), req.Migrations, req.Together)
	sub.Close()
	<-told
	last := MigrateReply{Done: all}
	if err != nil {
		kind, _ := kindOf(err)
		last.Error, last.Kind = err.Error(), kind
	}
	_ = out.write(last)
}

// canMigrate tells what is wrong with a request, and what memory it takes.
func (l *Lab) canMigrate(req MigrateRequest) (takes topo.Size, err error) {
	m, err := l.newMigration(req)
	if err != nil {
		return 0, fmt.Errorf("migrate %s: %w", req.VM, err)
	}
	return m.takes, nil
}

// Migrate moves a guest while it runs. see, which may be nil, is told of the
// VM's events meanwhile. A Migration that comes with an error says how far it
// came.
func (c *Client) Migrate(ctx context.Context, req MigrateRequest, see func(event.Event)) (*Migration, error) {
	all, err := c.MigrateAll(ctx, MigrateGroupRequest{Migrations: []MigrateRequest{req}}, see)
	if len(all) == 0 {
		return nil, err
	}
	return all[0], err
}

// MigrateAll is Migrate for several guests at the same time.
func (c *Client) MigrateAll(ctx context.Context, req MigrateGroupRequest, see func(event.Event)) ([]*Migration, error) {
	res, err := c.do(ctx, http.MethodPost, "/v1/migrate", nil, req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var reply MigrateReply
		if err := json.Unmarshal(lines.Bytes(), &reply); err != nil {
			return nil, fmt.Errorf("lab daemon: answer to a migration: %w", err)
		}
		switch {
		case reply.Event != nil:
			if see != nil {
				see(*reply.Event)
			}
		case reply.Error != "":
			return reply.Done, &RemoteError{Msg: reply.Error, Kind: reply.Kind}
		default:
			return reply.Done, nil
		}
	}
	if err := lines.Err(); err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("lab daemon: answer to a migration: %w", err)
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return nil, errors.New("lab daemon: it went away before the migration had ended")
}
