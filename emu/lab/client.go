package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// Client speaks to a lab's daemon, whichever kernel it lives in.
type Client struct {
	dial func(context.Context) (net.Conn, error)
	http *http.Client
}

// NewClient makes a client that opens connections by dial.
func NewClient(dial func(context.Context) (net.Conn, error)) *Client {
	tr := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: true, // a connection a request: closing it is how a request is given up
	}
	return &Client{dial: dial, http: &http.Client{Transport: tr}}
}

// HTTP and URL let other packages call their own handlers of the daemon.
func (c *Client) HTTP() *http.Client { return c.http }

// URL is the address of a path of the daemon, as "/v1/run".
func (c *Client) URL(path string) string { return "http://lab" + path }

// RemoteError is an error that the daemon answered.
type RemoteError struct {
	Msg    string
	Kind   string // not-found | not-built | invalid | failed
	Status int
}

func (e *RemoteError) Error() string { return e.Msg }

// do sends a request and returns an answer that is not an error.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	var rd io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		rd = bytes.NewReader(b)
	}
	u := c.URL(path)
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, rd)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("lab daemon: %w", unwrapURL(err))
	}
	if res.StatusCode/100 != 2 {
		defer res.Body.Close()
		return nil, readError(res)
	}
	return res, nil
}

// unwrapURL drops the made-up address of the daemon from an error.
func unwrapURL(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

func readError(res *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	var e apiError
	if json.Unmarshal(text, &e) != nil || e.Error == "" {
		e.Error = fmt.Sprintf("lab daemon: %s: %s", res.Status, bytes.TrimSpace(text))
	}
	return &RemoteError{Msg: e.Error, Kind: e.Kind, Status: res.StatusCode}
}

func (c *Client) getJSON(ctx context.Context, path string, query url.Values, into any) error {
	res, err := c.do(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		return fmt.Errorf("lab daemon: answer to %s: %w", path, err)
	}
	return nil
}

// Status asks for the lab in a few words.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var s Status
	if err := c.getJSON(ctx, "/v1/status", nil, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// Inspect asks for a Report.
func (c *Client) Inspect(ctx context.Context, r InspectRequest) (*Report, error) {
	q := url.Values{"node": r.Nodes}
	for _, s := range r.Sections {
		q.Add("section", string(s))
	}
	var rep Report
	if err := c.getJSON(ctx, "/v1/inspect", q, &rep); err != nil {
		return nil, err
	}
	return &rep, nil
}

// Deploy makes the lab what r.Source says. progress may be nil.
func (c *Client) Deploy(ctx context.Context, r DeployRequest, progress func(Phase)) (*DeployReply, error) {
	res, err := c.do(ctx, http.MethodPost, "/v1/deploy", nil, r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return readReplies(ctx, res, "a deployment", progress)
}

// readReplies reads the answer to what changes the lab.
func readReplies(ctx context.Context, res *http.Response, what string, progress func(Phase)) (*DeployReply, error) {
	dec := json.NewDecoder(res.Body)
	for {
		var line DeployReply
		if err := dec.Decode(&line); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, fmt.Errorf("lab daemon: it ended in the middle of %s: %w", what, err)
		}
		switch {
		case line.Error != "":
			return nil, &RemoteError{Msg: line.Error, Kind: line.Kind, Status: res.StatusCode}
		case line.Done != nil, line.Preview != nil:
			return &line, nil
		case line.Phase != nil && progress != nil:
			progress(*line.Phase)
		}
	}
}

// Destroy removes the lab; its daemon ends.
func (c *Client) Destroy(ctx context.Context) error {
	res, err := c.do(ctx, http.MethodPost, "/v1/destroy", nil, nil)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// Events hands the last n events to each, and with follow all that come until
// ctx ends.
func (c *Client) Events(ctx context.Context, last int, follow bool, each func(event.Event) error) error {
	q := url.Values{"last": {strconv.Itoa(last)}}
	if follow {
		q.Set("follow", "1")
	}
	res, err := c.do(ctx, http.MethodGet, "/v1/events", q, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	dec := json.NewDecoder(res.Body)
	for {
		var e event.Event
		if err := dec.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("lab daemon: events: %w", err)
		}
		if err := each(e); err != nil {
			return err
		}
	}
}

// Capture copies a pcapng stream to w until it ends or ctx does; started is
// called when the sockets are open.
func (c *Client) Capture(ctx context.Context, r CaptureRequest, w io.Writer, started func()) error {
	q := url.Values{"link": r.Links, "node": r.Nodes}
	if r.Count > 0 {
		q.Set("count", strconv.Itoa(r.Count))
	}
	if r.SnapLen > 0 {
		q.Set("snaplen", strconv.Itoa(r.SnapLen))
	}
	if r.Duration > 0 {
		q.Set("duration", r.Duration.String())
	}
	res, err := c.do(ctx, http.MethodGet, "/v1/capture", q, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if started != nil {
		started()
	}
	_, err = io.Copy(w, res.Body)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// ExecStreams are the caller's ends of a process's streams.
type ExecStreams struct {
	Stdin          io.Reader // may be nil
	Stdout, Stderr io.Writer
	Resize         <-chan Size // of the terminal; may be nil
}

// Size is a terminal's.
type Size struct{ Rows, Cols uint16 }

// lastWords is how long an interrupted process may take to finish (ping prints
// its statistics) before the connection is closed.
const lastWords = 3 * time.Second

// Exec runs a process in a node and returns its exit code. When ctx ends the
// process is interrupted, and hung up if that does not end it.
func (c *Client) Exec(ctx context.Context, r ExecRequest, st ExecStreams) (int, error) {
	conn, in, err := c.upgrade(ctx, r)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	out := &frameWriter{w: conn}
	release := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Now().Add(lastWords))
		_ = out.write(frameSignal, []byte{byte(syscall.SIGINT)})
	})
	defer release()
	if st.Stdin != nil {
		// Not waited for: a read of a terminal cannot be interrupted. It ends
		// with the process, or at the next write, which finds conn closed.
		go func() {
			if _, err := io.Copy(out.stream(frameStdin), st.Stdin); err == nil {
				_ = out.write(frameStdin, nil)
			}
		}()
	} else if err := out.write(frameStdin, nil); err != nil {
		return 0, err
	}
	done := make(chan struct{})
	defer close(done)
	go forwardSizes(out, st.Resize, done)
	code, err := receive(in, st)
	if err != nil && ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	return code, err
}

// forwardSizes ends with done or the channel.
func forwardSizes(out *frameWriter, sizes <-chan Size, done <-chan struct{}) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok || out.write(frameResize, binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, s.Rows), s.Cols)) != nil {
				return
			}
		case <-done:
			return
		}
	}
}

// receive copies the process's output until its exit code comes.
func receive(in io.Reader, st ExecStreams) (int, error) {
	for {
		t, p, err := readFrame(in)
		if err != nil {
			return 0, fmt.Errorf("lab daemon: it hung up before the process ended: %w", err)
		}
		switch {
		case t == frameStdout:
			_, err = st.Stdout.Write(p)
		case t == frameStderr:
			_, err = st.Stderr.Write(p)
		case t == frameError:
			return 0, &RemoteError{Msg: string(p), Kind: "failed"}
		case t == frameExit && len(p) == 4:
			return int(int32(binary.BigEndian.Uint32(p))), nil
		default:
			return 0, fmt.Errorf("lab daemon: frame of unknown type %d and %d bytes", t, len(p))
		}
		if err != nil {
			return 0, err
		}
	}
}

// upgrade opens a connection and turns it into frames.
func (c *Client) upgrade(ctx context.Context, r ExecRequest) (net.Conn, io.Reader, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, nil, err
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("lab daemon: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL("/v1/exec"), bytes.NewReader(body))
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", upgradeExec)
	if d, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(d)
	}
	br := bufio.NewReader(conn)
	err = req.Write(conn)
	var res *http.Response
	if err == nil {
		res, err = http.ReadResponse(br, req)
	}
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("lab daemon: exec: %w", err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		return nil, nil, readError(res)
	}
	_ = conn.SetDeadline(time.Time{})
	return conn, br, nil
}
