package fidelity

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/vpclab/vpclab/emu/ask"
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
		if err := ask.Read(w, r, maxRequest, &req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		leave, err := l.Occupy()
		if err != nil {
			http.Error(w, "the lab is in use: "+err.Error(), http.StatusConflict)
			return
		}
		defer leave()
		say := ask.Lines(w)
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
	in, err := ask.Post(ctx, client, url, req)
	if err != nil {
		return nil, fmt.Errorf("calibrate: %w", err)
	}
	defer in.Close()
	for {
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
