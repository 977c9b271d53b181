package child

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// Decode reads the one JSON object of a line of a control channel. It refuses
// unknown keys, and anything after the object.
func Decode(line []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one object on the line")
	}
	return nil
}
