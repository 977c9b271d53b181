package frr

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

// vty is a session with one daemon, over the socket that vtysh uses. Commands
// go out with a zero byte behind each; an answer is text, three zero bytes and
// the command's result. Several may be sent before the first is answered.
type vty struct {
	daemon string
	conn   net.Conn
	in     *bufio.Reader
}

// resultOK is CMD_SUCCESS; all others say that the command was not carried
// out, or not as it was meant.
const resultOK = 0

// maxAnswer bounds a command's text, in bytes: a table of some 100 000 routes.
const maxAnswer = 64 << 20

// dialVTY opens a session and raises it to the level where all commands are
// known.
func dialVTY(ctx context.Context, daemon, socket string) (*vty, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("open the vty of %s: %w", daemon, err)
	}
	v := &vty{daemon, conn, bufio.NewReader(conn)}
	if _, err := v.run(ctx, "enable"); err != nil {
		v.close()
		return nil, err
	}
	return v, nil
}

func (v *vty) close() { v.conn.Close() }

// configure has the daemon carry out commands of the configuration mode.
func (v *vty) configure(ctx context.Context, commands []string) error {
	if len(commands) == 0 {
		return nil
	}
	script := append(append([]string{"configure terminal"}, commands...), "end")
	texts, err := v.run(ctx, script...)
	if err != nil {
		return err
	}
	for i, text := range texts {
		if strings.Contains(text, "% ") { // some faults are told only so
			return fmt.Errorf("%s: %s: %s", v.daemon, script[i], oneLine(text))
		}
	}
	return nil
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// run gives commands and returns their texts. The first that is refused is in
// the error; those behind it have been given all the same.
func (v *vty) run(ctx context.Context, commands ...string) (texts []string, err error) {
	stop := context.AfterFunc(ctx, func() { v.conn.Close() })
	defer stop()
	fail := func(command string, err error) error {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("%s: %s: %w", v.daemon, command, err)
	}
	if _, err := io.WriteString(v.conn, strings.Join(commands, "\x00")+"\x00"); err != nil {
		return nil, fail(commands[0], err)
	}
	var refused error
	for _, c := range commands {
		text, result, err := v.answer()
		if err != nil {
			return nil, errors.Join(refused, fail(c, err))
		}
		if result != resultOK && refused == nil {
			refused = fail(c, fmt.Errorf("refused (%d): %s", result, oneLine(text)))
		}
		texts = append(texts, text)
	}
	return texts, refused
}

// answer reads one command's answer.
func (v *vty) answer() (text string, result byte, err error) {
	var b strings.Builder
	for {
		part, err := v.in.ReadSlice(0)
		b.Write(part)
		if b.Len() > maxAnswer {
			return "", 0, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return "", 0, fmt.Errorf("the session ended: %w", err)
		}
	}
	var tail [3]byte // two more zero bytes and the result
	if _, err := io.ReadFull(v.in, tail[:]); err != nil {
		return "", 0, fmt.Errorf("the session ended: %w", err)
	}
	if tail[0] != 0 || tail[1] != 0 {
		return "", 0, errors.New("the answer does not end as a vty's does")
	}
	return strings.TrimSuffix(b.String(), "\x00"), tail[2], nil
}
