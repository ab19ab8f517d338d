package config

import "github.com/pelletier/go-toml/v2/unstable"

// lines maps each key of a TOML document, tables too, to the line on which it
// stands first. The document is known to parse.
func lines(doc []byte) map[string]int {
	found := map[string]int{}
	var p unstable.Parser
	p.Reset(doc)
	table := ""
	for p.NextExpression() {
		switch node := p.Expression(); node.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = locate(&p, found, "", node.Key())
		case unstable.KeyValue:
			locateValue(&p, found, table, node)
		}
	}
	return found
}

func locateValue(p *unstable.Parser, found map[string]int, table string, node *unstable.Node) {
	key := locate(p, found, table, node.Key())
	if value := node.Value(); value.Kind == unstable.InlineTable {
		for children := value.Children(); children.Next(); {
			locateValue(p, found, key, children.Node())
		}
	}
}

// locate records every part of a dotted key and returns the whole of it.
func locate(p *unstable.Parser, found map[string]int, key string, parts unstable.Iterator) string {
	for parts.Next() {
		node := parts.Node()
		if key == "" {
			key = string(node.Data)
		} else {
			key = join(key, string(node.Data))
		}
		if _, seen := found[key]; !seen {
			found[key] = p.Shape(node.Raw).Start.Line
		}
	}
	return key
}
