package store

import "encoding/json"

// ParseHeaders reads headers as a backend keeps them, a JSON object of strings.
// Somebody else may have written others into the database: values that are no
// strings are given as their JSON text, and what is no object as no headers. A
// message with odd headers must not keep those behind it from being leased.
func ParseHeaders(text []byte) map[string]string {
	if len(text) == 0 {
		return nil
	}
	var headers map[string]string
	if json.Unmarshal(text, &headers) == nil {
		return headers
	}
	var odd map[string]json.RawMessage
	if json.Unmarshal(text, &odd) != nil {
		return nil
	}
	headers = make(map[string]string, len(odd))
	for name, value := range odd {
		var s string
		if json.Unmarshal(value, &s) != nil {
			s = string(value)
		}
		headers[name] = s
	}
	return headers
}
