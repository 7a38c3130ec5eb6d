(() => {
  const list = document.getElementById("answers");
  const order = document.getElementById("order");
  const backwards = document.getElementById("backwards");
  const articles = [...list.children];
  const ahead = (data, index) => {
    const own = Number(data["s" + index]);
    const others = Object.keys(data).filter((key) => /^s\d+$/.test(key) && key !== "s" + index);
    return own - Math.max(...others.map((key) => Number(data[key])));
  };
  const value = ({ dataset }) => /^\d+$/.test(order.value) ? ahead(dataset, order.value) : Number(dataset[order.value]);
  const sort = () => {
    const sign = backwards.checked ? -1 : 1;
    list.append(...articles.sort((a, b) => sign * (value(b) - value(a))));
    articles.forEach((article, place) => { article.open = place < 12; });
  };
  order.addEventListener("change", sort);
  backwards.addEventListener("change", sort);
  document.querySelector(".sort").hidden = false;
})();
