package qmp

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever QEMU says, it is read without panic, and no line runs into the next.
func FuzzLines(f *testing.F) {
	for _, s := range []string{
		greeting,
		`{"return": {}, "id": 1}` + "\n" + `{"error": {"class": "GenericError", "desc": "no"}, "id": 2}` + "\n",
		`{"timestamp": {"seconds": 1700000000, "microseconds": 999999}, "event": "STOP"}` + "\n",
		`{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "RESUME", "data": null}` + "\r\n",
		`{"return": null, "id": 3}` + "\n", `{"error": {"class": "GenericError", "desc": "JSON parse error"}}` + "\n",
		"\n\n{}", `{"return": 1}` + "\n", `{"id": -1, "return": []}` + "\n", `{"QMP": null}` + "\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, all []byte) {
		in := bufio.NewReaderSize(bytes.NewReader(all), 16)
		read := 0
		for {
			line, err := readLine(in)
			read += len(line)
			if err != nil {
				break
			}
			require.Equal(t, 1, bytes.Count(line, []byte("\n")))
			_, _ = parseGreeting(line)
			m, err := parseMessage(line)
			if err == nil && m.event == nil && m.answer.err == nil {
				require.NotNil(t, m.result)
			}
		}
		require.Equal(t, len(all), read)
	})
}
