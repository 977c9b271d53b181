package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

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
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
		d.DisallowUnknownFields()
		if err := d.Decode(&req); err != nil && !errors.Is(err, io.EOF) { // no body: all by default
			http.Error(w, "audit: body: "+err.Error(), http.StatusBadRequest)
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
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	hr.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(hr)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // what came of it says enough
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	var report Report
	if err := json.NewDecoder(resp.Body).Decode(&report); err != nil {
		return nil, fmt.Errorf("audit: the lab went away before the report: %w", err)
	}
	return &report, nil
}
