{{/* The data port's TLS, alike for nodes and for the pod of `helm test`: flags of kvistd and kvist, volume, mount; nothing where
     it is off. kubelet replaces the files of a Secret in place, and kvistd takes them: nothing restarts for a rotation. */}}
{{- define "kvist.tlsArgs" -}}
{{- if .Values.tls.enabled }}
- --tls-cert=/etc/kvist/tls/tls.crt
- --tls-key=/etc/kvist/tls/tls.key
- --tls-ca=/etc/kvist/tls/ca.crt
{{- if eq .Values.mode "daemonset" }}
{{- /* Its nodes go by addresses, which no certificate can name in advance: all are known by the name of first contact. */}}
- --tls-server-name={{ include "kvist.seedsHost" . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "kvist.tlsSecret" -}}
{{- default (printf "%s-tls" (include "kvist.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}

{{/* Root's, and readable by the pod's fsGroup: kvistd refuses a key that others can read. */}}
{{- define "kvist.tlsVolume" -}}
{{- if .Values.tls.enabled }}
- name: tls
  secret: {secretName: {{ include "kvist.tlsSecret" . }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "kvist.tlsMount" -}}
{{- if .Values.tls.enabled }}
- {name: tls, mountPath: /etc/kvist/tls, readOnly: true}
{{- end }}
{{- end -}}

{{/* What workers call: first contact, and with a StatefulSet each node by its own name. */}}
{{- define "kvist.tlsNames" -}}
- {{ include "kvist.seedsHost" . }}
{{- if eq .Values.mode "statefulset" }}
- {{ printf "*.%s.%s" (include "kvist.headless" .) (include "kvist.domain" .) | quote }}
{{- end }}
{{- end -}}
