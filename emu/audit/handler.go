package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/vpclab/vpclab/emu/ask"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/topo"
)

// Path is where the lab daemon mounts Handler, for POST.
const Path = "/v1/audit"

// maxRequest bounds the JSON of a Request in bytes.
const maxRequest = 1 << 20

// Request asks the lab daemon for an audit.
type Request struct {
	Deadline time.Duration `json:"deadline_ns,omitempty"`
	Budget   int           `json:"budget,omitempty"`
	Seed     uint64        `json:"seed,omitempty"`
}

// Lab is what an audit needs of a running lab: a *lab.Lab.
type Lab interface {
	// Still runs fn while nobody can change the lab; its context ends when the
	// lab is destroyed.
	Still(ctx context.Context, fn func(context.Context, *topo.Plan) error) error
	Fabric() *fabric.Fabric
}

// Handler answers POST with a Request as JSON body by an audit of l: a Report.
// Closing the request ends it.
func Handler(l Lab) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req Request
		if err := ask.Read(w, r, maxRequest, &req); err != nil && !errors.Is(err, io.EOF) { // no body: all by default
			http.Error(w, "audit: "+err.Error(), http.StatusBadRequest)
			return
		}
		var report *Report
		err := l.Still(r.Context(), func(ctx context.Context, plan *topo.Plan) (err error) {
			report, err = Run(ctx, Config{Plan: plan, Enter: l.Fabric().Do, Deadline: req.Deadline, Budget: req.Budget, Seed: req.Seed})
			return err
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(report) // a client that is gone does not read it
	})
}

// Post asks a Handler at url for an audit.
func Post(ctx context.Context, client *http.Client, url string, req Request) (*Report, error) {
	answer, err := ask.Post(ctx, client, url, req)
	var no *ask.Refused
	if errors.As(err, &no) {
		return nil, no
	}
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	defer answer.Close()
	var report Report
	if err := answer.Decode(&report); err != nil {
		return nil, fmt.Errorf("audit: the lab went away before the report: %w", err)
	}
	return &report, nil
}
