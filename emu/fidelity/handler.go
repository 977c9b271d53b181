package fidelity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/vpclab/vpclab/metrics"
)

// Path is where the lab daemon mounts Handler, for POST.
const Path = "/v1/calibrate"

// maxRequest bounds the JSON of a Request in bytes.
const maxRequest = 1 << 20

// Reply is one line of the answer to a Request: NDJSON. The last line holds
// what was measured, and what could not be.
type Reply struct {
	Progress    string               `json:"progress,omitempty"`
	Calibration *metrics.Calibration `json:"calibration,omitempty"`
	Error       string               `json:"error,omitempty"`
}

// Handler answers POST with a Request as JSON body by a calibration on l,
// whose lab it builds and destroys. Closing the request ends it.
func Handler(l Lab) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req Request
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
		d.DisallowUnknownFields()
		if err := d.Decode(&req); err != nil {
			http.Error(w, "calibrate: body: "+err.Error(), http.StatusBadRequest)
			return
		}
		leave, err := l.Occupy()
		if err != nil {
			http.Error(w, "calibrate: the lab is in use: "+err.Error(), http.StatusConflict)
			return
		}
		defer leave()
		w.Header().Set("Content-Type", "application/x-ndjson")
		out := json.NewEncoder(w)
		flush := http.NewResponseController(w)
		say := func(reply Reply) {
			// A client that is gone ends the calibration by way of its context.
			if out.Encode(reply) == nil {
				_ = flush.Flush()
			}
		}
		c, err := Run(r.Context(), l, req, func(text string) { say(Reply{Progress: text}) })
		reply := Reply{Calibration: c}
		if err != nil {
			reply.Error = err.Error()
		}
		say(reply)
	})
}

// Post asks a Handler at url for a calibration. An error may come with what
// was measured before it.
func Post(ctx context.Context, client *http.Client, url string, req Request, tell Progress) (*metrics.Calibration, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("calibrate: %w", err)
	}
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("calibrate: %w", err)
	}
	hr.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(hr)
	if err != nil {
		return nil, fmt.Errorf("calibrate: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // what came of it says enough
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	for in := json.NewDecoder(resp.Body); ; {
		var reply Reply
		if err := in.Decode(&reply); err != nil {
			return nil, fmt.Errorf("calibrate: the lab went away before the end: %w", err)
		}
		switch {
		case reply.Error != "":
			return reply.Calibration, errors.New(reply.Error)
		case reply.Calibration != nil:
			return reply.Calibration, nil
		}
		tell(reply.Progress)
	}
}
