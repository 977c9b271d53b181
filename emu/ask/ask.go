// Package ask is how a verb asks the lab daemon for work that takes long: one POST
// with a JSON body, whose answer is one document or one line of JSON after the
// other. Who gives up closes the request, which ends the work.
package ask

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Answer is what comes back: it is decoded one line at a time.
type Answer struct {
	*json.Decoder
	body io.Closer
}

// Close gives the rest of the answer up.
func (a *Answer) Close() { a.body.Close() }

// Refused is the daemon's no, with what it said.
type Refused struct {
	Status string // of HTTP
	Text   string
}

func (e *Refused) Error() string { return e.Text }

// Post asks at url.
func Post(ctx context.Context, client *http.Client, url string, request any) (*Answer, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // what came of it says enough
		return nil, &Refused{Status: resp.Status, Text: strings.TrimSpace(string(text))}
	}
	return &Answer{Decoder: json.NewDecoder(resp.Body), body: resp.Body}, nil
}

// Read reads a request of at most so many bytes. The error is io.EOF where there
// is no body.
func Read(w http.ResponseWriter, r *http.Request, most int64, request any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, most))
	d.DisallowUnknownFields()
	if err := d.Decode(request); err != nil {
		return fmt.Errorf("body: %w", err)
	}
	return nil
}

// Lines begins an answer of lines, each of which is sent at once. A client that is
// gone does not read them: the request's context ends with it.
func Lines(w http.ResponseWriter) (say func(any)) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := json.NewEncoder(w)
	flush := http.NewResponseController(w)
	return func(line any) {
		if out.Encode(line) == nil {
			_ = flush.Flush()
		}
	}
}
