/** Takes photos with the camera, where browsers allow it: on localhost or over https. */

import { find, show } from "./dom.js";

/** Offer the camera; `taken(file)` gets each photo. */
export function offerCamera(taken) {
  if (!navigator.mediaDevices?.getUserMedia) return;
  const [dialog, view, take] = [find("shot"), find("view"), find("take")];
  let stream = null;

  const stop = () => {
    stream?.getTracks().forEach((track) => track.stop());
    stream = view.srcObject = null;
  };

  find("camera").hidden = false;
  find("camera").onclick = async () => {
    show(find("shot-error"), "");
    take.disabled = true;
    dialog.showModal();
    try {
      const found = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      if (!dialog.open) {
        found.getTracks().forEach((track) => track.stop()); // it was closed meanwhile
        return;
      }
      view.srcObject = stream = found;
      await view.play();
      take.disabled = false;
      take.focus();
    } catch (error) {
      show(find("shot-error"), reason(error));
    }
  };

  take.onclick = () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [view.videoWidth, view.videoHeight];
    canvas.getContext("2d").drawImage(view, 0, 0);
    const name = `camera-${new Date().toTimeString().slice(0, 8).replaceAll(":", "")}.jpg`;
    canvas.toBlob((blob) => blob && taken(new File([blob], name, { type: blob.type })), "image/jpeg", 0.92);
    dialog.close();
  };
  find("leave").onclick = () => dialog.close();
  dialog.onclose = stop;
}

function reason(error) {
  if (error.name === "NotAllowedError") return "The browser does not allow this page to use the camera.";
  if (error.name === "NotFoundError") return "No camera was found.";
  if (error.name === "NotReadableError") return "The camera is in use by another program.";
  return `The camera can't be used: ${error.message}`;
}
