{{/* Tenants and tokens: flags of kvistd, volumes, mounts; nothing where no access is configured. kvistd reads these files again by
     itself, and kubelet replaces them in place, so no checksum of them restarts a pod, which would empty it. */}}
{{- define "kvist.access" -}}{{ if or .Values.access.identities .Values.access.existingConfigMap }}true{{ end }}{{- end -}}

{{- define "kvist.accessArgs" -}}
{{- if include "kvist.access" . }}
- --access=/etc/kvist/access/access.json
- --access-refresh={{ .Values.access.refresh }}
{{- if .Values.access.tokensSecret }}
- --tokens=/etc/kvist/tokens/tokens
{{- end }}
{{- if .Values.access.peerTokenSecret }}
- --peer-token=/etc/kvist/peer-token/token
{{- end }}
{{- end }}
{{- end -}}

{{- define "kvist.accessConfigMap" -}}
{{- default (printf "%s-access" (include "kvist.fullname" .)) .Values.access.existingConfigMap -}}
{{- end -}}

{{- define "kvist.accessVolumes" -}}
{{- if include "kvist.access" . }}
- name: access
  configMap: {name: {{ include "kvist.accessConfigMap" . }}}
{{- with .Values.access.tokensSecret }}
- name: tokens
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .Values.access.peerTokenSecret }}
- name: peer-token
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- end -}}

{{- define "kvist.accessMounts" -}}
{{- if include "kvist.access" . }}
- {name: access, mountPath: /etc/kvist/access, readOnly: true}
{{- if .Values.access.tokensSecret }}
- {name: tokens, mountPath: /etc/kvist/tokens, readOnly: true}
{{- end }}
{{- if .Values.access.peerTokenSecret }}
- {name: peer-token, mountPath: /etc/kvist/peer-token, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{/* Nodes show each other their one certificate; what it names is first contact. */}}
{{- define "kvist.accessFile" -}}
{{- $identities := .Values.access.identities -}}
{{- if .Values.tls.enabled -}}
{{- $identities = prepend $identities (dict "identity" (printf "dns:%s" (include "kvist.seedsHost" .)) "role" "node") -}}
{{- end -}}
{{- dict "tenants" .Values.access.tenants "identities" $identities | toPrettyJson -}}
{{- end -}}

{{/* The token of `helm test`, of its steps that call nodes. */}}
{{- define "kvist.testToken" -}}{{ if include "kvist.access" . }}{{ .Values.tests.tokenSecret }}{{ end }}{{- end -}}
