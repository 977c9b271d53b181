package qmp

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// maxLine bounds what QEMU says at once; its description of all commands has some
// 200 kB.
const maxLine = 16 << 20

// readLine reads up to a newline. What it returns is the caller's.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return nil, fmt.Errorf("line of more than %d bytes", maxLine)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// encodeCommand is a command on a line.
func encodeCommand(id uint64, command string, arguments any) ([]byte, error) {
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, id})
	return append(b, '\n'), err
}

// answer is what QEMU says to a command.
type answer struct {
	result json.RawMessage
	err    *Error
}

// message is one line of QEMU's: an event, or the answer to command id.
type message struct {
	event *Event
	id    uint64
	answer
}

// wireMessage is its form.
type wireMessage struct {
	Return *json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	ID        *uint64         `json:"id"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

// parseMessage reads a line that is no greeting.
func parseMessage(line []byte) (m message, err error) {
	var w wireMessage
	if err := json.Unmarshal(line, &w); err != nil {
		return m, fmt.Errorf("QEMU's message: %w", err)
	}
	switch {
	case w.Event != "":
		m.event = newEvent(w.Event, w.Data, w.Timestamp.Seconds, w.Timestamp.Microseconds)
		return m, nil
	case w.Return == nil && w.Error == nil:
		return m, fmt.Errorf("QEMU's message is neither event nor answer: %.200q", line)
	case w.ID == nil && w.Error != nil: // it could not read what we said
		return m, fmt.Errorf("QEMU understood no command: %s (%s)", w.Error.Desc, w.Error.Class)
	case w.ID == nil:
		return m, fmt.Errorf("QEMU's answer has no number: %.200q", line)
	}
	m.id = *w.ID
	if w.Error != nil {
		m.answer.err = &Error{Class: w.Error.Class, Desc: w.Error.Desc}
	} else {
		m.result = *w.Return
	}
	return m, nil
}

// parseGreeting reads the first line.
func parseGreeting(line []byte) (v Version, err error) {
	var g struct {
		QMP *struct {
			Version struct {
				QEMU    struct{ Major, Minor, Micro int }
				Package string
			}
		}
	}
	if err := json.Unmarshal(line, &g); err != nil || g.QMP == nil {
		return v, fmt.Errorf("this is no QMP monitor: it greets with %.200q", line)
	}
	q := g.QMP.Version
	return Version{q.QEMU.Major, q.QEMU.Minor, q.QEMU.Micro, q.Package}, nil
}

// wallTime is the time of an event's stamp; QEMU writes -1 where it could not
// read its clock.
func wallTime(seconds, microseconds int64) time.Time {
	if seconds < 0 || microseconds < 0 || microseconds >= 1e6 {
		return time.Time{}
	}
	return time.Unix(seconds, microseconds*1000)
}
