package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vpclab/vpclab/topo"
)

// The daemon's API is HTTP over whatever carries bytes to it: a unix socket,
// or streams over the serial line of a booted kernel.
//
//	GET  /v1/status                      Status
//	POST /v1/deploy    DeployRequest     DeployReply lines (NDJSON)
//	POST /v1/operate   OperateRequest    DeployReply lines (NDJSON)
//	POST /v1/migrate   MigrateGroupRequest  MigrateReply lines (NDJSON)
//	GET  /v1/faults                      FaultView list
//	POST /v1/fault     FaultRequest      the fault, and with hold how it ended (NDJSON)
//	POST /v1/faults/undo?id=             {}; without id all
//	POST /v1/flush?vpc=                  {}; the VPC's bridges have forgotten all MACs
//	POST /v1/destroy                     {}; the daemon ends afterwards
//	GET  /v1/inspect?section=&node=      Report
//	GET  /v1/events?last=N&follow=1      event lines (NDJSON)
//	POST /v1/exec      ExecRequest       ExecResult, or with "Upgrade: vpclab-exec" frames both ways
//	GET  /v1/capture?link=&node=&count=&duration=&snaplen=   pcapng stream
//
// Errors are {"error": "…", "kind": "…"} with a 4xx or 5xx status. While
// experiments are under way the lab cannot be changed (409).

// upgradeExec is the protocol of a process's streams.
const upgradeExec = "vpclab-exec"

// maxRequest bounds the JSON of a request in bytes.
const maxRequest = 64 << 20

// DeployRequest asks for a lab to be made what a scenario file says.
type DeployRequest struct {
	File     string        `json:"file"` // for messages
	Source   []byte        `json:"source"`
	Name     string        `json:"name,omitempty"` // the lab's name instead of the file's
	DryRun   bool          `json:"dry_run,omitempty"`
	Deadline time.Duration `json:"deadline_ns,omitempty"` // 0: the lab's
}

// DeployReply is one line of the answer: phases while it works, then one of
// Done, Preview or Error.
type DeployReply struct {
	Phase   *Phase    `json:"phase,omitempty"`
	Done    *Timeline `json:"done,omitempty"`
	Preview *Preview  `json:"preview,omitempty"`
	Error   string    `json:"error,omitempty"`
	Kind    string    `json:"kind,omitempty"` // of the error
}

func failedReply(err error) DeployReply {
	kind, _ := kindOf(err)
	return DeployReply{Error: err.Error(), Kind: kind}
}

// apiError is the body of an error answer.
type apiError struct {
	Error string `json:"error"`
	Kind  string `json:"kind"` // not-found | not-built | invalid | failed
}

// server is one lab's API.
type server struct {
	lab       *Lab
	destroyed chan struct{} // closed when /v1/destroy has succeeded
	once      sync.Once
}

// Handler is the API of l. extra adds handlers under their patterns (as
// "POST /v1/run").
func Handler(l *Lab, extra map[string]http.Handler) http.Handler {
	h, _ := newServer(l, extra)
	return h
}

func newServer(l *Lab, extra map[string]http.Handler) (http.Handler, *server) {
	s := &server{lab: l, destroyed: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("POST /v1/deploy", s.unlessBusy(s.deploy))
	mux.HandleFunc("POST /v1/operate", s.unlessBusy(s.operate))
	mux.HandleFunc("POST /v1/migrate", s.unlessBusy(s.migrate))
	mux.HandleFunc("POST /v1/switchover", s.unlessBusy(s.switchOver))
	mux.HandleFunc("GET /v1/faults", s.listFaults)
	mux.HandleFunc("POST /v1/fault", s.unlessBusy(s.inject))
	mux.HandleFunc("POST /v1/faults/undo", s.unlessBusy(s.undoFaults))
	mux.HandleFunc("POST /v1/flush", s.unlessBusy(s.flush))
	mux.HandleFunc("POST /v1/destroy", s.destroy)
	mux.HandleFunc("GET /v1/inspect", s.inspect)
	mux.HandleFunc("GET /v1/events", s.events)
	mux.HandleFunc("POST /v1/exec", s.exec)
	mux.HandleFunc("GET /v1/capture", s.capture)
	mux.HandleFunc("GET /v1/console", s.console)
	for pattern, h := range extra {
		mux.Handle(pattern, h)
	}
	return mux, s
}

// Serve answers ln until ctx ends or the lab is destroyed by a request. It
// returns when every request has ended and nothing of the lab is left.
func Serve(ctx context.Context, ln net.Listener, l *Lab, extra map[string]http.Handler) error {
	handler, s := newServer(l, extra)
	requests, cancel := context.WithCancel(ctx)
	defer cancel()
	var busy sync.WaitGroup
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			busy.Add(1)
			defer busy.Done()
			handler.ServeHTTP(w, r)
		}),
		BaseContext:       func(net.Listener) context.Context { return requests },
		ReadHeaderTimeout: 30 * time.Second,
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	var err error
	select {
	case <-ctx.Done():
	case <-s.destroyed:
		// Let the answer to destroy reach its client.
		flush, stop := context.WithTimeout(ctx, 2*time.Second)
		_ = srv.Shutdown(flush)
		stop()
	case err = <-failed:
	}
	cancel() // streams, processes and experiments end
	_ = srv.Close()
	busy.Wait()
	end, stop := context.WithTimeout(context.WithoutCancel(ctx), undoDeadline)
	defer stop()
	if e := l.Destroy(end); e != nil {
		err = errors.Join(err, e)
	}
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		return nil // the other side is gone: an ordinary end
	}
	return err
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// fail answers with what kind of error it was.
func fail(w http.ResponseWriter, err error) {
	kind, status := kindOf(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(apiError{Error: err.Error(), Kind: kind})
}

// kindOf tells errors of the caller's making from those of the lab.
func kindOf(err error) (kind string, status int) {
	var none *NoSuchError
	var faults topo.Diagnostics
	var operation *topo.OperationError
	var full *topo.NoRoomError
	var broken *topo.FaultError
	var down *DownError
	switch {
	case errors.As(err, &full):
		return "failed", http.StatusConflict // the request was right, the backbone is full
	case errors.As(err, &none):
		return "not-found", http.StatusNotFound
	case errors.Is(err, ErrNotBuilt):
		return "not-built", http.StatusConflict
	case errors.Is(err, ErrBusy), errors.Is(err, ErrMigrating), errors.As(err, &down):
		return "failed", http.StatusConflict
	case errors.As(err, &faults), errors.As(err, &operation), errors.As(err, &broken), errors.Is(err, errBadRequest):
		return "invalid", http.StatusBadRequest
	}
	return "failed", http.StatusInternalServerError
}

var errBadRequest = errors.New("bad request")

// decode reads the JSON body of a request strictly.
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: body: %w", errBadRequest, err)
	}
	return nil
}

func (s *server) status(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.lab.Status()) }

func (s *server) inspect(w http.ResponseWriter, r *http.Request) {
	req := InspectRequest{Nodes: r.URL.Query()["node"]}
	for _, section := range r.URL.Query()["section"] {
		req.Sections = append(req.Sections, Section(section))
	}
	rep, err := s.lab.Inspect(r.Context(), req)
	if err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, rep)
}

// lines writes NDJSON, each line sent at once.
type lines struct {
	mu  sync.Mutex
	enc *json.Encoder
	rc  *http.ResponseController
}

func newLines(w http.ResponseWriter) *lines {
	w.Header().Set("Content-Type", "application/x-ndjson")
	l := &lines{enc: json.NewEncoder(w), rc: http.NewResponseController(w)}
	_ = l.rc.Flush()
	return l
}

func (l *lines) write(v any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.enc.Encode(v); err != nil {
		return err
	}
	return l.rc.Flush()
}

func (s *server) deploy(w http.ResponseWriter, r *http.Request) {
	var req DeployRequest
	if err := decode(w, r, &req); err != nil {
		fail(w, err)
		return
	}
	sc, err := topo.Parse(req.File, req.Source)
	if err != nil {
		fail(w, err)
		return
	}
	if req.Name != "" {
		sc.Name = req.Name
	}
	plan, err := topo.Expand(sc)
	if err != nil {
		fail(w, err)
		return
	}
	s.change(w, plan, req.DryRun, req.Deadline, func(opt ApplyOptions) (*Timeline, error) {
		return s.lab.ApplyWith(r.Context(), plan, opt)
	})
}

// change answers with DeployReply lines: what a change to plan would do, or
// how do, which changes the lab, comes along.
func (s *server) change(w http.ResponseWriter, plan *topo.Plan, dryRun bool, deadline time.Duration, do func(ApplyOptions) (*Timeline, error)) {
	out := newLines(w)
	var last DeployReply
	var err error
	if dryRun {
		last.Preview, err = s.lab.Preview(plan)
	} else {
		last.Done, err = do(ApplyOptions{
			Announce: true, Deadline: deadline,
			Progress: func(p Phase) { _ = out.write(DeployReply{Phase: &p}) }, // a client that is gone ends the change by way of its context
		})
	}
	if err != nil {
		last = failedReply(err)
	}
	_ = out.write(last)
}

func (s *server) destroy(w http.ResponseWriter, r *http.Request) {
	// A client that goes away does not leave half a lab.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), undoDeadline)
	defer cancel()
	if err := s.lab.Destroy(ctx); err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, struct{}{})
	_ = http.NewResponseController(w).Flush()
	s.once.Do(func() { close(s.destroyed) })
}

func (s *server) events(w http.ResponseWriter, r *http.Request) {
	last, err := intParam(r, "last", busHistory)
	if err != nil {
		fail(w, err)
		return
	}
	follow := r.URL.Query().Get("follow") != ""
	sub := s.lab.bus.subscribe(last)
	defer sub.Close()
	out := newLines(w)
	for {
		if !follow && len(sub.C) == 0 {
			return
		}
		select {
		case e := <-sub.C:
			if out.write(e) != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

func intParam(r *http.Request, name string, missing int) (int, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return missing, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%w: %s=%q: want a number from 0", errBadRequest, name, v)
	}
	return n, nil
}

func (s *server) exec(w http.ResponseWriter, r *http.Request) {
	var req ExecRequest
	if err := decode(w, r, &req); err != nil {
		fail(w, err)
		return
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), upgradeExec) {
		res, err := s.lab.Exec(r.Context(), req)
		if err != nil {
			fail(w, err)
			return
		}
		writeJSON(w, res)
		return
	}
	f, cmd, err := s.lab.command(req)
	if err != nil {
		fail(w, err)
		return
	}
	ctx := r.Context()
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		fail(w, fmt.Errorf("exec: take over the connection: %w", err))
		return
	}
	defer conn.Close()
	if err := switchProtocols(conn); err != nil {
		return
	}
	s.lab.execStream(ctx, f, cmd, req, buf.Reader, conn)
}

// switchProtocols tells the client that frames follow.
func switchProtocols(conn net.Conn) error {
	_, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+upgradeExec+"\r\n\r\n")
	return err
}

func (s *server) capture(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	req := CaptureRequest{Links: q["link"], Nodes: q["node"]}
	var err error
	if req.Count, err = intParam(r, "count", 0); err == nil {
		req.SnapLen, err = intParam(r, "snaplen", 0)
	}
	if d := q.Get("duration"); err == nil && d != "" {
		if req.Duration, err = time.ParseDuration(d); err != nil {
			err = fmt.Errorf("%w: duration=%q: want a span of time as 10s", errBadRequest, d)
		}
	}
	if err != nil {
		fail(w, err)
		return
	}
	body := &flushing{w: w, rc: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "application/x-pcapng")
	err = s.lab.Capture(r.Context(), req, body, nil)
	if err != nil && !body.begun {
		fail(w, err)
	}
}

// flushing is a response body of which nothing lingers.
type flushing struct {
	w     io.Writer
	rc    *http.ResponseController
	begun bool
}

func (f *flushing) Write(p []byte) (int, error) {
	f.begun = true
	n, err := f.w.Write(p)
	if err == nil {
		err = f.rc.Flush()
	}
	return n, err
}
